# What people tell instances and workflows, how they find them, and what time takes away.
python_test(operations)
python_test(find)
