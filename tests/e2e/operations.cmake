# What people tell instances and workflows, how they find them, and what time takes away.
python_test(operations)
python_test(find)
python_test(json)
python_test(retention)
add_test(NAME e2e.completion COMMAND bash ${CMAKE_CURRENT_SOURCE_DIR}/e2e/completion.sh)
set_tests_properties(e2e.completion PROPERTIES LABELS e2e TIMEOUT 120)
