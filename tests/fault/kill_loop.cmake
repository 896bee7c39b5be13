# kill -9 of every process at random, to the end of a scenario; long, so in the long tier only.
foreach(seed 1 2 3)
  add_test(NAME kill_loop_${seed}
    COMMAND ${CMAKE_CURRENT_LIST_DIR}/kill_loop --long-tier --seed ${seed}
            --program $<TARGET_FILE:moonwright>)
  set_tests_properties(kill_loop_${seed} PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT 400 RUN_SERIAL TRUE)
endforeach()
