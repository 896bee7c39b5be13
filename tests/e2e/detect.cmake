# Detection: what the settling unit promises, and the stage with its files on a real database.
add_test(NAME e2e.settle COMMAND /usr/bin/python3 ${CMAKE_CURRENT_SOURCE_DIR}/e2e/test_settle.py)
set_tests_properties(e2e.settle PROPERTIES LABELS e2e TIMEOUT 180)
