"""What a model of a config costs: parameters, multiply-adds, memory, images a second."""
