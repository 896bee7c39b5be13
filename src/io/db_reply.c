/* db_reply.c - reading what a unit was answered, and the server's errors as ours. */
#include "io/db_internal.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum db_outcome db_reply_outcome(const struct db_reply *reply)
{
    return reply->unit->outcome;
}

const struct err *db_reply_err(const struct db_reply *reply)
{
    return &reply->unit->err;
}

int db_reply_failed_statement(const struct db_reply *reply)
{
    return reply->unit->outcome == DB_FAILED ? reply->unit->failed : -1;
}

// NULL unless the whole unit went through: results of what was rolled back are no facts.
static const PGresult *result_of(const struct db_reply *reply, int statement)
{
    must(statement >= 0 && statement < reply->unit->count);
    return reply->unit->outcome == DB_OK ? reply->unit->statements[statement].result : NULL;
}

int db_rows(const struct db_reply *reply, int statement)
{
    return PQntuples(result_of(reply, statement));
}

int db_columns(const struct db_reply *reply, int statement)
{
    return PQnfields(result_of(reply, statement));
}

const char *db_column(const struct db_reply *reply, int statement, int column)
{
    return PQfname(result_of(reply, statement), column);
}

int64_t db_affected(const struct db_reply *reply, int statement)
{
    // PQcmdTuples only reads, whatever its parameter's type says.
    PGresult *result = (PGresult *)(uintptr_t)result_of(reply, statement);
    return result ? strtoll(PQcmdTuples(result), NULL, 10) : 0;
}

static const PGresult *cell(const struct db_reply *reply, int statement, int row, int column)
{
    const PGresult *result = result_of(reply, statement);
    must(result && row >= 0 && row < PQntuples(result) && column >= 0 &&
         column < PQnfields(result));
    return result;
}

const char *db_value(const struct db_reply *reply, int statement, int row, int column)
{
    const PGresult *result = cell(reply, statement, row, column);
    return PQgetisnull(result, row, column) ? NULL : PQgetvalue(result, row, column);
}

size_t db_length(const struct db_reply *reply, int statement, int row, int column)
{
    return (size_t)PQgetlength(cell(reply, statement, row, column), row, column);
}

int64_t db_int(const struct db_reply *reply, int statement, int row, int column)
{
    const char *value = db_value(reply, statement, row, column);
    return value ? strtoll(value, NULL, 10) : 0;
}

bool db_bool(const struct db_reply *reply, int statement, int row, int column)
{
    const char *value = db_value(reply, statement, row, column);
    return value && value[0] == 't';
}

// Our own SQLSTATE: the function that guards every unit found that the lease is gone.
#define SQLSTATE_FENCE "MWF01"

void db_error(struct err *err, const PGresult *result)
{
    const char *state = PQresultErrorField(result, PG_DIAG_SQLSTATE);
    const char *primary = PQresultErrorField(result, PG_DIAG_MESSAGE_PRIMARY);
    const char *detail = PQresultErrorField(result, PG_DIAG_MESSAGE_DETAIL);
    if (!primary || !*primary) {
        primary = PQresultErrorMessage(result);
    }
    enum err_code code = !state                               ? ERR_CONN
                         : strcmp(state, SQLSTATE_FENCE) == 0 ? ERR_FENCE
                                                              : ERR_SQL;
    if (detail) {
        err_set(err, code, "%s (%s)", primary, detail);
    } else {
        err_set(err, code, "%s", primary);
    }
    snprintf(err->sqlstate, sizeof(err->sqlstate), "%s", state ? state : "");
}
