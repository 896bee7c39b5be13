# kill -9 of every process at random, to the end of a scenario; long, so in the long tier only.
foreach(seed 1 2 3)
  add_test(NAME kill_loop_${seed}
    COMMAND ${CMAKE_CURRENT_LIST_DIR}/kill_loop --long-tier --seed ${seed}
            --program $<TARGET_FILE:moonwright>)
  set_tests_properties(kill_loop_${seed} PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT 600)
endforeach()

# The same while the vendors have a bad day, with four workers, and with lives that end at a point
# of the engine, wherever it falls.
set(kill_loop_weather --faults weather --workers 4 --seed 4)
set(kill_loop_points --points 1500 --every 5 --seed 5)
set(kill_loop_storm --points 1000 --every 4 --faults weather --workers 3 --seed 6)
foreach(name weather points storm)
  add_test(NAME kill_loop_${name}
    COMMAND ${CMAKE_CURRENT_LIST_DIR}/kill_loop --long-tier ${kill_loop_${name}}
            --program $<TARGET_FILE:moonwright>)
  set_tests_properties(kill_loop_${name} PROPERTIES SKIP_RETURN_CODE 77 TIMEOUT 600)
endforeach()
