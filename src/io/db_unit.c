/* db_unit.c - building a unit, and its end.
 *
 * Everything a unit holds but its results lives in its arena. A mistake of the builder's (a uuid
 * that is none, too many parameters) is kept and becomes the unit's outcome without a byte sent. */
#include "io/db_internal.h"

#include "io/loop_internal.h"

#include <arpa/inet.h>
#include <inttypes.h>
#include <limits.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum {
    PARAMS_MAX = 65535, // of the protocol
    OID_INT2S = 1005,
    OID_INT4S = 1007,
    OID_INT8S = 1016,
    OID_TEXTS = 1009,
    OID_JSONS = 199,
    OID_UUIDS = 2951,
    OID_INT2 = 21,
    OID_INT4 = 23,
    OID_INT8 = 20,
    OID_TEXT = 25,
    OID_JSON = 114,
    OID_UUID = 2950
};

struct db_unit *db_unit_new(void)
{
    struct db_unit *unit = xcalloc(1, sizeof(*unit));
    unit->arena = arena_new();
    unit->failed = -1;
    return unit;
}

void db_unit_reset(struct db_unit *unit)
{
    for (int i = 0; i < unit->count; i++) {
        struct db_statement *statement = &unit->statements[i];
        PQclear(statement->result);
        statement->result = NULL;
        statement->name = 0;
        statement->prepares = false;
    }
    unit->at = 0;
    unit->in_prepare = unit->got_null = unit->stale = false;
    unit->failed = -1;
    unit->outcome = DB_OK;
    unit->err = (struct err){0};
}

void db_unit_free(struct db_unit *unit)
{
    if (unit) {
        for (int i = 0; i < unit->count; i++) {
            PQclear(unit->statements[i].result);
        }
        free(unit->statements);
        arena_free(unit->arena);
        free(unit);
    }
}

void db_unit_fail(struct db_unit *unit, enum db_outcome outcome, const struct err *err)
{
    unit->outcome = outcome;
    unit->err = *err;
}

static void report(void *ctx)
{
    struct db_unit *unit = ctx;
    struct db_reply reply = {unit};
    if (unit->done) {
        unit->done(unit->ctx, &reply);
    }
    db_unit_free(unit);
}

static void drop(void *ctx)
{
    db_unit_free(ctx);
}

void db_unit_finish(struct db_unit *unit, struct loop *loop)
{
    unit->next = NULL;
    loop_defer_owned(loop, report, drop, unit);
}

void db_queue_put(struct db_queue *queue, struct db_unit *unit)
{
    unit->next = NULL;
    if (queue->last) {
        queue->last->next = unit;
    } else {
        queue->first = unit;
    }
    queue->last = unit;
    queue->count++;
}

struct db_unit *db_queue_take(struct db_queue *queue)
{
    struct db_unit *unit = queue->first;
    queue->first = unit->next;
    queue->last = queue->first ? queue->last : NULL;
    queue->count--;
    unit->next = NULL;
    return unit;
}

void db_queue_return(struct db_queue *queue, struct db_unit *unit)
{
    struct db_unit **at = &queue->first, *before = NULL;
    while (*at && (*at)->resent) {
        before = *at;
        at = &(*at)->next;
    }
    unit->next = *at;
    *at = unit;
    if (queue->last == before) {
        queue->last = unit;
    }
    queue->count++;
}

// The builder's mistake: the first one is told.
__attribute__((format(printf, 2, 3))) static void mistake(struct db_unit *unit, const char *format,
                                                          ...)
{
    if (unit->outcome != DB_OK) {
        return;
    }
    char text[256];
    va_list args;
    va_start(args, format);
    vsnprintf(text, sizeof(text), format, args);
    va_end(args);
    unit->outcome = DB_FAILED;
    unit->failed = unit->count - 1;
    err_set(&unit->err, ERR_INPUT, "%s", text);
}

void db_unit_begin(struct db_unit *unit, const char *sql)
{
    if (unit->count == unit->size) {
        unit->size = unit->size ? unit->size * 2 : 4;
        unit->statements = xrealloc(unit->statements,
                                    (size_t)unit->size * sizeof(*unit->statements));
    }
    unit->statements[unit->count++] = (struct db_statement){.sql = sql};
}

// memcpy with a size of 0 may be given no pointer, which realloc in an arena would need.
static void *grown(struct arena *arena, const void *old, int count, int size, size_t width)
{
    void *fresh = arena_alloc(arena, (size_t)size * width);
    if (count > 0) {
        memcpy(fresh, old, (size_t)count * width);
    }
    return fresh;
}

// Adds one parameter; the value already lives as long as the unit.
static void add_param(struct db_unit *unit, const char *value, size_t len, bool binary, Oid type)
{
    must(unit->count > 0);
    struct db_statement *s = &unit->statements[unit->count - 1];
    if (s->nparams == PARAMS_MAX || len > INT_MAX) {
        mistake(unit, s->nparams == PARAMS_MAX ? "a statement has more than 65535 parameters"
                                               : "a parameter is larger than 2 GB");
        return;
    }
    if (s->nparams == s->size) {
        int size = s->size ? s->size * 2 : 8;
        s->values = grown(unit->arena, s->values, s->nparams, size, sizeof(*s->values));
        s->lengths = grown(unit->arena, s->lengths, s->nparams, size, sizeof(*s->lengths));
        s->formats = grown(unit->arena, s->formats, s->nparams, size, sizeof(*s->formats));
        s->types = grown(unit->arena, s->types, s->nparams, size, sizeof(*s->types));
        s->size = size;
    }
    s->values[s->nparams] = value;
    s->lengths[s->nparams] = (int)len;
    s->formats[s->nparams] = binary;
    s->types[s->nparams] = type;
    s->nparams++;
}

void db_param_text(struct db_unit *unit, const char *value)
{
    size_t len = value ? strlen(value) : 0;
    add_param(unit, value ? arena_strndup(unit->arena, value, len) : NULL, len, false, 0);
}

void db_param_int(struct db_unit *unit, int64_t value)
{
    char text[24];
    snprintf(text, sizeof(text), "%" PRId64, value);
    db_param_text(unit, text);
}

void db_unit_add(struct db_unit *unit, const char *sql, int nparams, const char *const *values)
{
    db_unit_begin(unit, sql);
    for (int i = 0; i < nparams; i++) {
        db_param_text(unit, values[i]);
    }
}

void db_unit_add_once(struct db_unit *unit, const char *sql, int nparams, const char *const *values)
{
    db_unit_add(unit, arena_strdup(unit->arena, sql), nparams, values);
    unit->statements[unit->count - 1].once = true;
}

void db_unit_addv(struct db_unit *unit, const char *sql, int nparams, ...)
{
    va_list args;
    va_start(args, nparams);
    db_unit_begin(unit, sql);
    for (int i = 0; i < nparams; i++) {
        db_param_text(unit, va_arg(args, const char *));
    }
    va_end(args);
}

// ---- arrays, as array_recv() of the server reads them ----------------------------------------

static unsigned char *put32(unsigned char *at, int64_t value)
{
    uint32_t net = htonl((uint32_t)value);
    memcpy(at, &net, 4);
    return at + 4;
}

static unsigned char *put_int(unsigned char *at, int64_t value, int width)
{
    for (int i = 0; i < width; i++) {
        at[i] = (unsigned char)((uint64_t)value >> (8 * (width - 1 - i)));
    }
    return at + width;
}

// Begins an array of n elements that need `bytes` without their length words. The header of an
// empty array ends before the dimension.
static unsigned char *array_begin(struct db_unit *unit, size_t n, size_t bytes, bool nulls,
                                  Oid type, Oid element)
{
    size_t len = n == 0 ? 12 : 20 + 4 * n + bytes;
    if (n > INT_MAX || len > INT_MAX) {
        mistake(unit, "an array parameter is larger than 2 GB");
        return NULL;
    }
    unsigned char *data = arena_alloc(unit->arena, len), *at = data;
    at = put32(at, n > 0);
    at = put32(at, nulls);
    at = put32(at, element);
    if (n > 0) {
        at = put32(at, (int64_t)n);
        at = put32(at, 1);
    }
    add_param(unit, (const char *)data, len, true, type);
    return at;
}

void db_param_int2s(struct db_unit *unit, size_t n, const int16_t *values)
{
    unsigned char *at = array_begin(unit, n, 2 * n, false, OID_INT2S, OID_INT2);
    for (size_t i = 0; at && i < n; i++) {
        at = put_int(put32(at, 2), values[i], 2);
    }
}

void db_param_int4s(struct db_unit *unit, size_t n, const int32_t *values)
{
    unsigned char *at = array_begin(unit, n, 4 * n, false, OID_INT4S, OID_INT4);
    for (size_t i = 0; at && i < n; i++) {
        at = put_int(put32(at, 4), values[i], 4);
    }
}

void db_param_int8s(struct db_unit *unit, size_t n, const int64_t *values)
{
    unsigned char *at = array_begin(unit, n, 8 * n, false, OID_INT8S, OID_INT8);
    for (size_t i = 0; at && i < n; i++) {
        at = put_int(put32(at, 8), values[i], 8);
    }
}

static void put_strings(struct db_unit *unit, size_t n, const char *const *values, Oid type,
                        Oid element)
{
    size_t bytes = 0;
    bool nulls = false;
    for (size_t i = 0; i < n; i++) {
        bytes += values[i] ? strlen(values[i]) : 0;
        nulls = nulls || !values[i];
    }
    unsigned char *at = array_begin(unit, n, bytes, nulls, type, element);
    for (size_t i = 0; at && i < n; i++) {
        size_t len = values[i] ? strlen(values[i]) : 0;
        at = put32(at, values[i] ? (int64_t)len : -1);
        if (len > 0) {
            memcpy(at, values[i], len);
            at += len;
        }
    }
}

void db_param_texts(struct db_unit *unit, size_t n, const char *const *values)
{
    put_strings(unit, n, values, OID_TEXTS, OID_TEXT);
}

void db_param_jsons(struct db_unit *unit, size_t n, const char *const *values)
{
    put_strings(unit, n, values, OID_JSONS, OID_JSON);
}

// By a table: nobody can predict the branches of digits drawn by lot.
static int hex_digit(char c)
{
    static const signed char digits[256] = {
        ['0'] = 1,  ['1'] = 2,  ['2'] = 3,  ['3'] = 4,  ['4'] = 5,  ['5'] = 6,
        ['6'] = 7,  ['7'] = 8,  ['8'] = 9,  ['9'] = 10, ['a'] = 11, ['b'] = 12,
        ['c'] = 13, ['d'] = 14, ['e'] = 15, ['f'] = 16, ['A'] = 11, ['B'] = 12,
        ['C'] = 13, ['D'] = 14, ['E'] = 15, ['F'] = 16};
    return digits[(unsigned char)c] - 1;
}

// 8-4-4-4-12 digits into 16 bytes.
static bool uuid_bytes(const char *text, unsigned char out[16])
{
    static const unsigned char places[16] = {0,  2,  4,  6,  9,  11, 14, 16,
                                             19, 21, 24, 26, 28, 30, 32, 34};
    for (size_t i = 0; i < 16; i++) {
        size_t at = places[i];
        if (i >= 4 && i <= 10 && i % 2 == 0 && text[at - 1] != '-') {
            return false;
        }
        int high = hex_digit(text[at]), low = high < 0 ? -1 : hex_digit(text[at + 1]);
        if (low < 0) {
            return false;
        }
        out[i] = (unsigned char)(high << 4 | low);
    }
    return text[36] == 0;
}

void db_param_uuids(struct db_unit *unit, size_t n, const char *const *uuids)
{
    size_t nulls = 0;
    for (size_t i = 0; i < n; i++) {
        nulls += !uuids[i];
    }
    unsigned char *at = array_begin(unit, n, 16 * (n - nulls), nulls > 0, OID_UUIDS, OID_UUID);
    for (size_t i = 0; at && i < n; i++) {
        at = put32(at, uuids[i] ? 16 : -1);
        if (uuids[i]) {
            if (!uuid_bytes(uuids[i], at)) {
                mistake(unit, "'%.60s' is not a uuid", uuids[i]);
                return;
            }
            at += 16;
        }
    }
}
