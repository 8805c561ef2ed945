"""Faults on purpose: clients write histories, a conductor draws faults, and the ledger says what became of the records."""
