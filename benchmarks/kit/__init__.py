"""What every benchmark needs: rounds, memory, threads, tables, a ledger."""
