# The words of `run` in the whole program: children, people, undoing.
python_test(children)
python_test(signals)
python_test(people)
python_test(campaign)
python_test(runs)
python_test(undo)
python_test(quarantine)
python_test(health)
