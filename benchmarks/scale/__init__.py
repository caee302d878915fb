"""What one monitor can carry: many agents, many calls, many jobs that wait, a ledger."""
