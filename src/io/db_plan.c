/* db_plan.c - which statements a connection has prepared.
 *
 *     absent --sent with its PREPARE--> under way --answered--> ready
 *        ^------------- refused, aborted, or no longer honoured ----'
 *
 * While it is under way, only the unit that prepares it may use the name: were that unit to fail
 * first, the statement would not exist. Names are never used twice on a connection. */
#include "io/db_internal.h"

#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct db_plans {
    struct db_plan *slots; // open addressing; a slot with a key is never emptied
    size_t count, size;    // size is a power of two
};

struct db_plans *db_plans_new(void)
{
    struct db_plans *plans = xcalloc(1, sizeof(*plans));
    plans->size = 64;
    plans->slots = xcalloc(plans->size, sizeof(*plans->slots));
    return plans;
}

void db_plans_forget(struct db_plans *plans)
{
    for (size_t i = 0; i < plans->size; i++) {
        free(plans->slots[i].sql);
    }
    memset(plans->slots, 0, plans->size * sizeof(*plans->slots));
    plans->count = 0;
}

void db_plans_free(struct db_plans *plans)
{
    db_plans_forget(plans);
    free(plans->slots);
    free(plans);
}

static struct db_plan *find_slot(struct db_plan *slots, size_t size, const char *key)
{
    uint64_t hash = (uint64_t)(uintptr_t)key * UINT64_C(0x9e3779b97f4a7c15);
    for (size_t i = (size_t)(hash >> 32);; i++) {
        struct db_plan *slot = &slots[i & (size - 1)];
        if (!slot->key || slot->key == key) {
            return slot;
        }
    }
}

static void grow(struct db_plans *plans)
{
    size_t size = plans->size * 2;
    struct db_plan *slots = xcalloc(size, sizeof(*slots));
    for (size_t i = 0; i < plans->size; i++) {
        if (plans->slots[i].key) {
            *find_slot(slots, size, plans->slots[i].key) = plans->slots[i];
        }
    }
    free(plans->slots);
    plans->slots = slots;
    plans->size = size;
}

struct db_plan *db_plan_of(struct db_plans *plans, const char *sql)
{
    struct db_plan *plan = find_slot(plans->slots, plans->size, sql);
    if (plan->key && strcmp(plan->sql, sql) != 0) {
        free(plan->sql);
        *plan = (struct db_plan){.key = sql, .sql = xstrdup(sql)};
        return plan;
    }
    if (!plan->key) {
        if (2 * plans->count >= plans->size) {
            grow(plans);
            plan = find_slot(plans->slots, plans->size, sql);
        }
        plans->count++;
        *plan = (struct db_plan){.key = sql, .sql = xstrdup(sql)};
    }
    return plan;
}

void db_plan_settled(struct db_plan *plan, unsigned name, bool ready)
{
    if (plan->name == name) { // else it has been prepared anew since
        plan->name = ready ? name : 0;
        plan->ready = ready;
        plan->unit = NULL;
    }
}

void db_plan_name(char out[16], unsigned name)
{
    snprintf(out, 16, "mw%u", name);
}
