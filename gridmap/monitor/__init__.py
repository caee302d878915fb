"""One loop a run: what workers, the scheduler and the user say goes into the dispatcher, and what
it decides is done."""
