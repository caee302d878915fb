"""What a person gets to see of a run away from the terminal: mails and plots."""
