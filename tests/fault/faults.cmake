# The whole product, small, with something going wrong around it: see fault/test_*.py. Short here;
# with MOONWRIGHT_LONG each counts for more.
foreach(name DatabaseTest SyncedDatabaseTest ConnectionTest RestartTest StallTest PoolerTest WorkersTest ClockTest)
  add_test(NAME fault.${name}
    COMMAND /usr/bin/python3 ${CMAKE_CURRENT_SOURCE_DIR}/fault/test_faults.py ${name})
  set_tests_properties(fault.${name} PROPERTIES LABELS fault TIMEOUT 600)
endforeach()
# A death at every point: of the engine, of what words do, of the sync, and with two databases.
foreach(name EngineTest WordsTest SyncTest TwoDatabasesTest)
  add_test(NAME fault.deaths.${name}
    COMMAND /usr/bin/python3 ${CMAKE_CURRENT_SOURCE_DIR}/fault/test_crash.py ${name})
  set_tests_properties(fault.deaths.${name} PROPERTIES LABELS fault TIMEOUT 1800)
endforeach()
# A sale and a send at the same time, in every order.
foreach(name InterleavingTest HolderTest PersonTest RaceTest)
  add_test(NAME fault.stops.${name}
    COMMAND /usr/bin/python3 ${CMAKE_CURRENT_SOURCE_DIR}/fault/test_stops.py ${name})
  set_tests_properties(fault.stops.${name} PROPERTIES LABELS fault TIMEOUT 900)
endforeach()
