/* json_lua.h - JSON for Lua: the module `host.json`. Private to script/.
 *
 * lua-cjson parses. Before it the text is looked at once: what cjson would take though it isn't
 * JSON is refused, what it would lose is marked. After it the tables are put right where the text
 * had something to put right: integral numbers become integers, integers beyond 2^53 stay texts,
 * arrays are known as arrays even when empty, and null is an absent key. The writer is our own,
 * because cjson rounds numbers and doesn't sort keys. */
#ifndef SCRIPT_JSON_LUA_H
#define SCRIPT_JSON_LUA_H

#include <lua.h>
#include <stdbool.h>
#include <stddef.h>

#define JSON_MAX_DEPTH 32
#define JSON_MAX_TEXT (16u << 20)    /* bytes that one encode may write */
#define JSON_MAX_INTEGER (1LL << 53) /* exact in every JSON implementation */
#define JSON_BIG_NUMBER "\0N"        /* marks the digits of one: no real string has a NUL */

enum json_nulls {
    JSON_DROP_NULLS, /* keys and elements that are null are absent */
    JSON_KEEP_NULLS, /* they are the light userdata NULL */
    JSON_EXACT       /* so, and big integers keep JSON_BIG_NUMBER before their digits */
};

/* Pushes the table `host.json`: decode encode null array is_array. May raise. */
void json_open(lua_State *L);
/* Prepares a state for json_read and json_write without pushing anything. May raise. */
void json_init(lua_State *L);
/* Pushes the value of text; raises "not JSON: …". */
void json_read(lua_State *L, const char *text, size_t len, enum json_nulls nulls);
/* Pushes the canonical text of the value at index; raises with the path of what can't be. */
void json_write(lua_State *L, int index, bool exact);
/* Gives the table at index (a table) the mark of an array. */
void json_mark_array(lua_State *L, int index);
bool json_is_array(lua_State *L, int index);

/* json_scan.c: what a text has in it. */
struct json_found {
    bool rewritten; /* [] or big integers: the text for cjson, with marked strings, was pushed */
    bool others;    /* numbers, arrays or nulls, of which cjson's values aren't ours */
};
/* Raises "not JSON: …" for what cjson would let through. */
struct json_found json_scan(lua_State *L, const char *text, size_t len);
/* The offset of the first byte that isn't UTF-8, or len. */
size_t json_utf8(const char *text, size_t len);

#endif
