-- A module that is no Lua.
return {,}
