---@meta
-- What files of workflows/ declare, and the words of actions. For editors; never run.

---@class Workflow
---@field on? string|string[] events that start an instance
---@field when? fun(e: Event): any pure: looks only at e; true starts
---@field run fun(e: Event): any the body; a returned text is shown as the outcome
---@field key? string|fun(e: Event): any at most one live instance per key; the event's subject
---@field if_running? "skip"|"replace"|"queue" what a new event does while its key is taken; skip
---@field stop_when? table events that end it: "name", name = "entity", name = { same =, when = }
---@field family? string one live sequence per customer and family; higher priority replaces
---@field rate? Rate at most so many starts in any window
---@field concurrency? Concurrency at most so many at work at once
---@field debounce? Debounce starts with the newest event once its key has been quiet
---@field batch? Batch gathers events into one instance: e is the first, e.batch lists all
---@field schedule? Schedule also starts at times of the clock
---@field class? "marketing"|"transactional" of its sends; marketing
---@field priority? "high"|"normal"|"low" normal
---@field history? boolean also start for imported history; false
---@field shadow? boolean record sends without sending them; false
---@field on_stop? fun(e: Event, by: Event) after a stop
---@field on_error? fun(e: Event, err: ActionError): string? "failed" or "done", or nothing: stuck

---@class Rate
---@field limit integer starts
---@field per string in any window of this length: "1h"
---@field key? string|fun(e: Event): any counted by it; the whole workflow
---@field over? "wait"|"skip" what is over it; wait

---@class Concurrency
---@field limit integer at work at once
---@field key? string|fun(e: Event): any counted by it; the whole workflow
---@field hold? boolean a wait keeps its place; false

---@class Debounce
---@field quiet string "2m"
---@field max? string at the latest after this long
---@field key? string|fun(e: Event): any the workflow's key

---@class Batch
---@field within string "1h"
---@field max? integer so many start at once; 500 at most
---@field key? string|fun(e: Event): any the workflow's key

---Fires of a workflow. Each is an event of its own: e.name is "schedule", e.time the planned time, and
---its subject, for the key, is the schedule itself (e.schedule.id is the workflow's name): while an
---instance runs, what is due next is skipped, unless key or if_running say otherwise.
---@class Schedule
---@field cron string "30 7 * * 1-5": minute hour day month weekday
---@field zone? string of its clock; the company's
---@field gap? "next"|"skip" a time that DST skips: later by the gap, or not at all; next
---@field fold? "first"|"last"|"both" a time that comes twice; first
---@field catch_up? "latest"|"all"|"none" of what came due while nothing ran; latest; all is at most 100

---workflows/NAME.lua
---@param declaration Workflow
---@return Workflow
function workflow(declaration) end

---Exactly one source: created, becomes, changed, daily, manual or webhook.
---@class Rule
---@field of string the entity that it is about
---@field created? boolean a row appeared
---@field becomes? table|fun(row: table): any it didn't match before, it does now
---@field changed? string[] one of these fields differs
---@field daily? string "07:00"; needs where and once
---@field where? string SQL on the entity's view; :today is the day
---@field once? string the date field that tells a new fact from an old one
---@field manual? boolean by a person
---@field data? table<string, string> what comes with it: string number money boolean date time, ?
---@field webhook? string POST /hooks/NAME
---@field secret? string name of a setting
---@field read? fun(body: any): table? of a webhook's body; nil ignores the call
---@field at? string the field with the fact's own time
---@field when? fun(e: Event): any an extra condition, pure

---workflows/events.lua
---@param declaration table<string, Rule>
---@return table<string, Rule>
function events(declaration) end

---@class Company
---@field name? string
---@field zone string "America/New_York"
---@field phone? string
---@field email? string
---@field address? string
---@field website? string
---@field hours? table<string, string> { mon_fri = "08:00-18:00" }
---@field people? table<string, string|string[]> an e-mail address or "+1555…" per role
---@field links? table<string, string>

---workflows/company.lua
---@param declaration Company
---@return Company
function company(declaration) end

---@class Mapping
---@field of string the entity
---@field map fun(x: Event): table pure: the vendor's own body

---workflows/ghl/NAME.lua
---@param declaration Mapping
---@return Mapping
function mapping(declaration) end

---@class Action
---@field run fun(a: table, key: string): any key is the same at every try
---@field args? table<string, string> string number money boolean date time, an entity; ? optional
---@field effect? "read"|"idempotent"|"once" whether it may be repeated; once
---@field find? fun(a: table, key: string): any its result if it was done, or nil
---@field in_doubt? "sent"|"drop" what counts when nobody can find out; a person says

---workflows/actions/NAME.lua: called as NAME.action { … }
---@param declaration table<string, Action>
---@return table<string, Action>
function actions(declaration) end

---Clears a field of a mapping; in an action, JSON's null.
null = nil

---The value of a setting; in actions only.
---@param name string
---@return any
function setting(name) end

---@class HttpRequest
---@field url string
---@field query? table<string, any>
---@field headers? { Authorization: string }
---@field json? any the body
---@field as? string what the call is named in the record

---@class HttpAnswer
---@field status integer
---@field body string
---@field json any

---In actions; get and post also in the function of step. A call is tried again as its action or its step
---says, then it raises {action, code, message, status, attempts}. Only hosts of MOONWRIGHT_HTTP_HOSTS.
---@class http
http = {}

---@param request HttpRequest
---@return HttpAnswer
function http.get(request) end

---@param request HttpRequest
---@return HttpAnswer
function http.post(request) end

---@param request HttpRequest
---@return HttpAnswer
function http.put(request) end

---@param request HttpRequest
---@return HttpAnswer
function http.delete(request) end
