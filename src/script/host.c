/* host.c - the table `host`: what trusted Lua can't do by itself, and nothing with an effect but
 * the log. Every function takes and returns plain values; one that wants to act posts a message
 * to its task's owner (task.c). */
#include "script/host.h"

#include "script/json_lua.h"

#include "base/clock.h"
#include "base/crash.h"
#include "base/cron.h"
#include "base/digest.h"
#include "base/log.h"
#include "base/mark.h"
#include "base/zone.h"

#include <lauxlib.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

#define MAX_FIELDS 8 /* of one line of the log */

/* hash(text) -> 16 hex digits */
static int l_hash(lua_State *L)
{
    size_t len;
    const char *text = luaL_checklstring(L, 1, &len);
    char hex[16];
    uint64_t hash = digest_hash64(text, len);
    for (size_t i = sizeof(hex); i > 0; i--, hash >>= 4)
        hex[i - 1] = "0123456789abcdef"[hash & 15];
    lua_pushlstring(L, hex, sizeof(hex));
    return 1;
}

/* sha256(text, digits) -> hex digits, all 64 of them or the first ones */
static int l_sha256(lua_State *L)
{
    size_t len;
    const char *text = luaL_checklstring(L, 1, &len);
    lua_Integer digits = luaL_optinteger(L, 2, 64);
    char hex[65];
    luaL_argcheck(L, digits >= 1 && digits <= 64, 2, "1 to 64 digits");
    digest_sha256_hex(text, len, hex);
    lua_pushlstring(L, hex, (size_t)digits);
    return 1;
}

/* random_hex(bytes) -> 2 * bytes hex digits */
static int l_random_hex(lua_State *L)
{
    lua_Integer bytes = luaL_checkinteger(L, 1);
    char hex[129];
    luaL_argcheck(L, bytes >= 1 && bytes <= 64, 1, "1 to 64 bytes");
    digest_random_hex(hex, (size_t)bytes);
    lua_pushstring(L, hex);
    return 1;
}

/* now() -> whole seconds since 1970, real time */
static int l_now(lua_State *L)
{
    lua_pushinteger(L, clock_wall_us() / 1000000);
    return 1;
}

/* log(level, message, key, value, ...) */
static int l_log(lua_State *L)
{
    static const char *const names[] = {"debug", "info", "warn", "error", NULL};
    static const enum log_level levels[] = {LOG_DEBUG, LOG_INFO, LOG_WARN, LOG_ERROR};
    int level = luaL_checkoption(L, 1, NULL, names);
    const char *message = luaL_checkstring(L, 2);
    int count = lua_gettop(L) - 2;
    luaL_argcheck(L, count % 2 == 0, count + 2, "a key without a value");
    luaL_argcheck(L, count <= 2 * MAX_FIELDS, 3, "too many fields");
    luaL_checkstack(L, count + 4, NULL);
    const char *f[2 * MAX_FIELDS] = {NULL};
    for (int i = 0; i < count; i++) {
        if (i % 2 == 0)
            luaL_checkstring(L, 3 + i);
        f[i] = lua_isnil(L, 3 + i) ? "" : luaL_tolstring(L, 3 + i, NULL);
    }
    log_write(levels[level], "lua", message, f[0], f[1], f[2], f[3], f[4], f[5], f[6], f[7], f[8],
              f[9], f[10], f[11], f[12], f[13], f[14], f[15], NULL);
    return 0;
}

/* judging(part, name, about, watched): what the company's Lua is asked from now on. Where it is
 * watched, the next life knows should it kill the process. */
static int l_judging(lua_State *L)
{
    size_t name_len, about_len;
    const char *part = luaL_checkstring(L, 1);
    const char *name = luaL_checklstring(L, 2, &name_len);
    const char *about = luaL_checklstring(L, 3, &about_len);
    if (lua_toboolean(L, 4))
        mark_judge(part, name, name_len, about, about_len);
    if (crash_armed()) {
        char point[256];
        snprintf(point, sizeof(point), "%s %s %s", part, name, about);
        crash_point("judge", point);
    }
    return 0;
}

/* judged(): it is asked nothing more. Whether it is of interest what is asked next, watched or not.
 */
static int l_judged(lua_State *L)
{
    mark_judged();
    lua_pushboolean(L, crash_armed());
    return 1;
}

/* ---- zones ---- */

static lua_Integer whole_number(lua_State *L, int index)
{
    lua_Number number = luaL_checknumber(L, index);
    luaL_argcheck(L, fabs(number) < 1e15, index, "not a time");
    return (lua_Integer)floor(number);
}

static const char *check_zone(lua_State *L)
{
    const char *zone = luaL_checkstring(L, 1);
    if (!zone_exists(zone))
        luaL_error(L, "there is no time zone '%s'", zone);
    return zone;
}

/* zone.civil(zone, at) -> { year, month, day, hour, minute, second, weekday, offset } */
static int l_civil(lua_State *L)
{
    const char *zone = check_zone(L);
    struct civil civil;
    if (!zone_civil(zone, whole_number(L, 2), &civil))
        return luaL_error(L, "this time can't be shown in %s", zone);
    const struct {
        const char *name;
        int value;
    } fields[] = {{"year", civil.year},       {"month", civil.month},   {"day", civil.day},
                  {"hour", civil.hour},       {"minute", civil.minute}, {"second", civil.second},
                  {"weekday", civil.weekday}, {"offset", civil.offset}};
    lua_createtable(L, 0, 8);
    for (size_t i = 0; i < sizeof(fields) / sizeof(*fields); i++) {
        lua_pushinteger(L, fields[i].value);
        lua_setfield(L, -2, fields[i].name);
    }
    return 1;
}

static int field(lua_State *L, const char *name, int missing)
{
    lua_getfield(L, 2, name);
    lua_Integer value = luaL_optinteger(L, -1, missing);
    if (value < -100000 || value > 100000)
        luaL_error(L, "%s = %I is out of range", name, value);
    lua_pop(L, 1);
    return (int)value;
}

/* zone.instant(zone, { year, month, day, hour, minute, second }) -> seconds since 1970 */
static int l_instant(lua_State *L)
{
    const char *zone = check_zone(L);
    luaL_checktype(L, 2, LUA_TTABLE);
    lua_settop(L, 2);
    struct civil civil = {.year = field(L, "year", 1970),
                          .month = field(L, "month", 1),
                          .day = field(L, "day", 1),
                          .hour = field(L, "hour", 0),
                          .minute = field(L, "minute", 0),
                          .second = field(L, "second", 0)};
    int64_t at;
    if (!zone_instant(zone, &civil, &at))
        return luaL_error(L, "this date doesn't exist in %s", zone);
    lua_pushinteger(L, at);
    return 1;
}

/* zone.exists(name) -> boolean */
static int l_exists(lua_State *L)
{
    lua_pushboolean(L, lua_type(L, 1) == LUA_TSTRING && zone_exists(lua_tostring(L, 1)));
    return 1;
}

/* ---- schedules ---- */

/* cron.refused(text) -> why it is no schedule, or nil */
static int l_cron_refused(lua_State *L)
{
    struct cron cron;
    struct err err;
    if (cron_parse(luaL_checkstring(L, 1), &cron, &err))
        return 0;
    lua_pushstring(L, err.message);
    return 1;
}

/* cron.next(text, zone, gap, fold, after) -> seconds since 1970, note; nothing: never again */
static int l_cron_next(lua_State *L)
{
    static const char *const gaps[] = {"next", "skip", NULL};
    static const char *const folds[] = {"first", "last", "both", NULL};
    static const char *const notes[] = {NULL, "moved", "skipped", "first", "last"};
    struct cron cron;
    struct cron_fire fire;
    struct err err;
    const char *zone = luaL_checkstring(L, 2);
    const struct cron_policy policy = {.gap = luaL_checkoption(L, 3, "next", gaps),
                                       .fold = luaL_checkoption(L, 4, "first", folds)};
    if (!zone_exists(zone))
        return luaL_error(L, "there is no time zone '%s'", zone);
    if (!cron_parse(luaL_checkstring(L, 1), &cron, &err))
        return luaL_error(L, "%s", err.message);
    if (!cron_next(&cron, zone, policy, whole_number(L, 5), &fire))
        return 0;
    lua_pushinteger(L, fire.at);
    lua_pushstring(L, notes[fire.note]);
    return 2;
}

/* ---- looking at running Lua ---- */

static bool is_ours(const lua_Debug *ar)
{
    return *ar->what == 'C' || strncmp(ar->source, "@lua/", 5) == 0 || strstr(ar->source, "/lua/");
}

bool host_where(lua_State *L, char *out, size_t size)
{
    lua_Debug ar;
    for (int level = 0; level < 200 && lua_getstack(L, level, &ar); level++) {
        lua_getinfo(L, "Sl", &ar);
        if (is_ours(&ar) || ar.currentline < 0)
            continue;
        snprintf(out, size, "%s:%d", ar.short_src, ar.currentline);
        return true;
    }
    return false;
}

/* where() -> "workflows/followup.lua:12", the company's line that is being run, or nil */
static int l_where(lua_State *L)
{
    char place[120];
    if (!host_where(L, place, sizeof(place)))
        return 0;
    lua_pushstring(L, place);
    return 1;
}

/* traceback(message) -> message with the stack; fit for xpcall */
static int l_traceback(lua_State *L)
{
    if (lua_type(L, 1) != LUA_TSTRING && !lua_isnoneornil(L, 1)) {
        lua_settop(L, 1);
        return 1;
    }
    luaL_traceback(L, L, lua_tostring(L, 1), 1);
    return 1;
}

/* parameters(f) -> how many arguments it can take; 255 when any number */
static int l_parameters(lua_State *L)
{
    lua_Debug about;
    luaL_checktype(L, 1, LUA_TFUNCTION);
    lua_settop(L, 1);
    lua_getinfo(L, ">u", &about);
    lua_pushinteger(L, about.isvararg ? 255 : about.nparams);
    return 1;
}

/* upvalues(f) -> { { name, value }, ... }: the locals of others that a Lua function uses */
static int l_upvalues(lua_State *L)
{
    luaL_checktype(L, 1, LUA_TFUNCTION);
    lua_settop(L, 1);
    lua_newtable(L);
    const char *name;
    for (int i = 1; (name = lua_getupvalue(L, 1, i)); i++) {
        lua_createtable(L, 0, 2);
        lua_insert(L, -2);
        lua_setfield(L, -2, "value");
        lua_pushstring(L, name);
        lua_setfield(L, -2, "name");
        lua_rawseti(L, 2, i);
    }
    return 1;
}

static const luaL_Reg functions[] = {
    {"hash", l_hash},         {"sha256", l_sha256},         {"random_hex", l_random_hex},
    {"now", l_now},           {"judging", l_judging},       {"judged", l_judged},
    {"log", l_log},           {"where", l_where},           {"traceback", l_traceback},
    {"upvalues", l_upvalues}, {"parameters", l_parameters}, {NULL, NULL}};

static const luaL_Reg zone_functions[] = {
    {"civil", l_civil}, {"instant", l_instant}, {"exists", l_exists}, {NULL, NULL}};

static const luaL_Reg cron_functions[] = {
    {"refused", l_cron_refused}, {"next", l_cron_next}, {NULL, NULL}};

void host_open(lua_State *L)
{
    luaL_newlib(L, functions);
    luaL_newlib(L, zone_functions);
    lua_setfield(L, -2, "zone");
    luaL_newlib(L, cron_functions);
    lua_setfield(L, -2, "cron");
    host_open_pattern(L);
    lua_setfield(L, -2, "pattern");
    json_open(L);
    lua_setfield(L, -2, "json");
}
