/* approve.c - see approve.h. */
#include "engine/approve.h"

#include "base/buf.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/trace.h"
#include "engine/outbound.h"
#include "script/json.h"

#include <stdlib.h>
#include <string.h>

#define PREFIX "/approve/"
#define PAGE_MAX (1u << 20)
enum { TASK = 36, TOKEN = 32 };

struct approvals {
    const struct engine *engine;
    struct visit *all;
};

struct visit { // one request, until it is answered
    struct approvals *approvals;
    struct visit *next, *prev;
    struct http_request *request; // NULL: answered
    bool answers;                 // a POST
};

static void visit_end(struct visit *visit, int status, const char *text)
{
    if (visit->approvals) {
        if (visit->prev) {
            visit->prev->next = visit->next;
        } else {
            visit->approvals->all = visit->next;
        }
        if (visit->next) {
            visit->next->prev = visit->prev;
        }
    }
    if (visit->request) {
        http_reply(visit->request, status, "text/html; charset=utf-8", text, strlen(text));
    }
    free(visit);
}

static void add_html(struct buf *out, const char *text)
{
    static const struct {
        char c;
        const char *entity;
    } escapes[] = {{'&', "&amp;"}, {'<', "&lt;"}, {'>', "&gt;"}, {'"', "&quot;"}, {'\'', "&#39;"}};
    for (; text && *text; text++) {
        size_t i = 0;
        while (i < ARRAY_LEN(escapes) && escapes[i].c != *text) {
            i++;
        }
        if (i < ARRAY_LEN(escapes)) {
            buf_adds(out, escapes[i].entity);
        } else {
            buf_addc(out, *text);
        }
    }
}

static void begin_page(struct buf *out, const char *title)
{
    buf_init(out, PAGE_MAX);
    buf_adds(out, "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\">"
                  "<meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">"
                  "<meta name=\"referrer\" content=\"no-referrer\"><title>");
    add_html(out, title);
    buf_adds(out, "</title><style>body{font:16px sans-serif;max-width:36em;margin:2em auto;"
                  "padding:0 1em}textarea,input{width:100%;font:inherit;box-sizing:border-box}"
                  "button{font:inherit;padding:.6em 1.2em;margin:1em 1em 0 0}</style></head>"
                  "<body><h1>");
    add_html(out, title);
    buf_adds(out, "</h1>");
}

static void end_with(struct visit *visit, int status, const char *title, const char *more)
{
    struct buf page;
    begin_page(&page, title);
    buf_adds(&page, "<p>");
    add_html(&page, more);
    buf_adds(&page, "</p></body></html>\n");
    visit_end(visit, status, page.data);
    buf_fini(&page);
}

static void end_unknown(struct visit *visit)
{
    end_with(visit, 404, "Nothing is asked here", "The link may have been cut short.");
}

static void end_over(struct visit *visit, const char *title, const char *over)
{
    end_with(visit, 409, title, over);
}

// ---- the page ----------------------------------------------------------------------------------

static void show(struct visit *visit, const struct json *task)
{
    const char *over = json_text(task, "over"), *title = json_text(task, "title");
    if (over) {
        end_over(visit, title, over);
        return;
    }
    struct buf page;
    begin_page(&page, title);
    buf_adds(&page, "<form method=\"post\"><p><label>Text<textarea name=\"text\" rows=\"8\">\n");
    add_html(&page, json_text(task, "text"));
    buf_adds(&page, "</textarea></label></p><p><label>Your name<input name=\"by\" maxlength=\"80\">"
                    "</label></p><p><label>Note<input name=\"note\" maxlength=\"500\"></label></p>"
                    "<button name=\"answer\" value=\"yes\">");
    add_html(&page, json_text(task, "yes"));
    buf_adds(&page, "</button><button name=\"answer\" value=\"no\">");
    add_html(&page, json_text(task, "no"));
    buf_adds(&page, "</button></form></body></html>\n");
    visit_end(visit, 200, page.overflow ? "too long" : page.data);
    buf_fini(&page);
}

static void replied(void *ctx, const struct db_reply *reply)
{
    struct visit *visit = ctx;
    if (!visit->approvals || db_reply_outcome(reply) != DB_OK) {
        if (visit->approvals) {
            log_error("approve", "an answer is not taken", "error", db_reply_err(reply)->message,
                      NULL);
        }
        end_with(visit, 503, "Not now", "Please try again in a minute.");
        return;
    }
    const char *text = db_value(reply, 0, 0, 0);
    if (visit->answers) {
        if (!text || strcmp(text, "unknown") == 0) {
            end_unknown(visit);
        } else if (strcmp(text, "done") == 0) {
            end_with(visit, 200, "Thank you", "Your answer is taken.");
        } else {
            end_over(visit, "Your answer came after this", text);
        }
        return;
    }
    struct json *task = text ? json_parse(text, db_length(reply, 0, 0, 0), NULL) : NULL;
    if (task) {
        show(visit, task);
    } else {
        end_unknown(visit);
    }
    json_free(task);
}

// ---- requests ----------------------------------------------------------------------------------

static struct visit *visit_new(struct approvals *approvals, struct http_request *request,
                               bool answers)
{
    struct visit *visit = xcalloc(1, sizeof(*visit));
    *visit = (struct visit){
        .approvals = approvals, .next = approvals->all, .request = request, .answers = answers};
    if (visit->next) {
        visit->next->prev = visit;
    }
    approvals->all = visit;
    return visit;
}

// The task's id and its token, out of the path. False: it isn't one of our links.
static bool read_link(const struct http_request *request, char task[TASK + 1],
                      char token[TOKEN + 1])
{
    const char *path = http_path(request) + strlen(PREFIX);
    if (strlen(path) != TASK + 1 + TOKEN || path[TASK] != '.') {
        return false;
    }
    memcpy(task, path, TASK);
    memcpy(token, path + TASK + 1, TOKEN);
    task[TASK] = token[TOKEN] = '\0';
    return true;
}

static void on_look(void *ctx, struct http_request *request)
{
    struct approvals *approvals = ctx;
    struct visit *visit = visit_new(approvals, request, false);
    char task[TASK + 1], token[TOKEN + 1];
    if (!read_link(request, task, token)) {
        end_unknown(visit);
        return;
    }
    struct db_unit *unit = db_unit_new();
    db_unit_addv(unit, "select approval_page($1, $2)", 2, task, token);
    pool_send(approvals->engine->db, unit, replied, visit);
}

// The form as JSON; NULL: it says neither yes nor no.
static char *answer_json(struct http_request *request)
{
    size_t len, count;
    const char *body = http_body(request, &len);
    struct http_pair *pairs = http_form(body, len, &count);
    const char *word = NULL;
    struct buf out;
    buf_init(&out, PAGE_MAX);
    for (size_t i = 0; pairs && i < count; i++) {
        static const char *const kept[] = {"by", "text", "note"};
        if (strcmp(pairs[i].name, "answer") == 0) {
            word = pairs[i].value;
        }
        for (size_t k = 0; k < ARRAY_LEN(kept); k++) {
            if (strcmp(pairs[i].name, kept[k]) != 0) {
                continue;
            }
            char *text = op_utf8(pairs[i].value, strlen(pairs[i].value));
            buf_printf(&out, ",\"%s\":", kept[k]);
            buf_json(&out, text, strlen(text));
            free(text);
        }
    }
    bool yes = word && strcmp(word, "yes") == 0, no = word && strcmp(word, "no") == 0;
    char *json = (yes || no) && !out.overflow
                     ? xprintf("{\"approved\":%s%s}", yes ? "true" : "false", out.data)
                     : NULL;
    buf_fini(&out);
    free(pairs);
    return json;
}

static void on_answer(void *ctx, struct http_request *request)
{
    struct approvals *approvals = ctx;
    struct visit *visit = visit_new(approvals, request, true);
    char task[TASK + 1], token[TOKEN + 1];
    char *answer = answer_json(request);
    if (!read_link(request, task, token)) {
        end_unknown(visit);
    } else if (!answer) {
        end_with(visit, 400, "Yes or no?", "Please go back and press one of the buttons.");
    } else {
        struct db_unit *unit = db_unit_new();
        struct trace trace;
        char text[TRACE_TEXT];
        if (!trace_parse(http_header(request, "traceparent"), &trace)) {
            trace_new(&trace);
        }
        trace_child(&trace);
        trace_write(&trace, text);
        db_unit_addv(unit,
                     "select approval_answer($1, $2, $3::json) from "
                     "(select set_config('moonwright.trace', $4, true) offset 0) t",
                     4, task, token, answer, text);
        pool_send(approvals->engine->db, unit, replied, visit);
    }
    free(answer);
}

struct approvals *approvals_start(const struct engine *engine, struct http_server *server)
{
    struct approvals *approvals = xcalloc(1, sizeof(*approvals));
    approvals->engine = engine;
    http_route(server, "GET", PREFIX "*", on_look, approvals);
    http_route(server, "POST", PREFIX "*", on_answer, approvals);
    return approvals;
}

void approvals_stop(struct approvals *approvals)
{
    if (!approvals) {
        return;
    }
    for (struct visit *visit = approvals->all; visit; visit = visit->next) {
        visit->approvals = NULL; // its unit still reports, and ends it
        static const char text[] = "stopping\n";
        http_reply(visit->request, 503, "text/plain", text, strlen(text));
        visit->request = NULL;
    }
    free(approvals);
}
