"""What every benchmark needs: options, interleaved rounds, memory, a ledger, tables."""
