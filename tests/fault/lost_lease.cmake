# What is still written when a lease is lost: a real worker, a vendor that is slow.
add_test(NAME fault.lost_lease
  COMMAND /usr/bin/python3 ${CMAKE_CURRENT_LIST_DIR}/test_lost_lease.py)
set_tests_properties(fault.lost_lease PROPERTIES LABELS fault TIMEOUT 120)
