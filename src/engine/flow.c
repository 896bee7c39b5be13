/* flow.c - an instance under flow control asks before its body goes on: whether its time has come,
 * and for a slot. What it is told is decided in schema/0021_flow.sql. */
#include "engine/instance_parts.h"

static void answered(struct note *note)
{
    struct instance *in = note->ctx;
    in->notes--;
    if (note->result == NOTE_LOST) { /* it waits for its turn, or isn't ours any more */
        instance_gone(in, false);
        return;
    }
    if (note->result == NOTE_REFUSED) {
        instance_leave_stuck(in, "record_failed", note->error);
    } else if (!instance_consider(in) && !in->leaving) {
        instance_run(in);
        return;
    }
    instance_pump(in);
}

void flow_ask(struct instance *in)
{
    struct note *note = note_new(NOTE_BEGIN, in->id, in);
    note->gated = true;
    note->done = answered;
    note->ctx = in;
    in->notes++;
    journal_add(in->host->journal, note);
}
