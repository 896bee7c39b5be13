# C units of the script layer. They run Lua files of the tree, so they are told where it is.
foreach(name json sandbox task vm)
  add_executable(test_${name} ${CMAKE_CURRENT_SOURCE_DIR}/unit/test_${name}.c)
  target_link_libraries(test_${name} PRIVATE script PkgConfig::CMOCKA)
  target_compile_definitions(test_${name} PRIVATE
    LUA_DIR="${CMAKE_SOURCE_DIR}/lua" FIXTURE_DIR="${CMAKE_CURRENT_SOURCE_DIR}/unit/lua")
  add_test(NAME unit.${name} COMMAND test_${name})
  set_tests_properties(unit.${name} PROPERTIES LABELS unit TIMEOUT 120)
endforeach()
