"""What a call promises: the clauses of the contract, over every way in which a call can be made."""
