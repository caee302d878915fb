"""How people see a run, while its client lives and after that: questions and answers, read only.

questions.py   what a ledger tells, page by page: one SQL statement each
alive.py       what only the monitor knows: what runs, who works, how fast it goes
window.py      answers whoever has the run's key for watchers; a thread of the client
observer.py    asks: through the window where there is one, the ledger where the client is dead
"""
