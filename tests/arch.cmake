# Tests that read the source instead of running it.
add_test(NAME arch.structure COMMAND ${CMAKE_SOURCE_DIR}/tests/arch.sh ${CMAKE_SOURCE_DIR})
set_tests_properties(arch.structure PROPERTIES LABELS arch TIMEOUT 60)

# A change that a mutant's patch doesn't apply to any more, or that defines anew what it patches, makes
# it anew in the same commit.
add_test(NAME arch.mutants
  COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/fault/mutants/run --applies ${CMAKE_SOURCE_DIR})
set_tests_properties(arch.mutants PROPERTIES LABELS arch TIMEOUT 60)
add_test(NAME arch.mutants_seen
  COMMAND ${CMAKE_CURRENT_SOURCE_DIR}/arch_mutants.sh ${CMAKE_CURRENT_SOURCE_DIR})
set_tests_properties(arch.mutants_seen PROPERTIES LABELS arch TIMEOUT 60)

find_program(LUACHECK luacheck)
if(LUACHECK)
  add_test(NAME arch.luacheck COMMAND ${LUACHECK} -q --no-color lua workflows tests
    WORKING_DIRECTORY ${CMAKE_SOURCE_DIR})
  set_tests_properties(arch.luacheck PROPERTIES LABELS arch TIMEOUT 60)
endif()

find_program(CLANG_FORMAT clang-format)
if(CLANG_FORMAT AND DEFINED ENV{CI})
  file(GLOB_RECURSE formatted CONFIGURE_DEPENDS ${CMAKE_SOURCE_DIR}/src/*.[ch]
    ${CMAKE_CURRENT_SOURCE_DIR}/*.[ch])
  add_test(NAME arch.format COMMAND ${CLANG_FORMAT} --dry-run -Werror ${formatted})
  set_tests_properties(arch.format PROPERTIES LABELS arch TIMEOUT 60)
endif()
