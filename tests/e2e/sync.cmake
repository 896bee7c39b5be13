# Copying from ServiceTitan: the sync stage alone, against a server that speaks the vendor's
# protocol and a real database.
add_executable(sync_driver ${CMAKE_CURRENT_SOURCE_DIR}/support/sync_driver.c)
target_link_libraries(sync_driver PRIVATE engine)
target_compile_definitions(sync_driver PRIVATE LUA_DIR="${CMAKE_SOURCE_DIR}/lua")
python_test(sync SYNC_DRIVER=$<TARGET_FILE:sync_driver>)

foreach(name cron sync_page)
  add_executable(test_${name} ${CMAKE_CURRENT_SOURCE_DIR}/unit/test_${name}.c)
  target_link_libraries(test_${name} PRIVATE engine PkgConfig::CMOCKA)
  add_test(NAME unit.${name} COMMAND test_${name})
  set_tests_properties(unit.${name} PROPERTIES LABELS unit TIMEOUT 120)
endforeach()
