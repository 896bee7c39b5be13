---@meta
-- The words of `run`. For editors; never run. Each with an effect, a wait or an answer from outside
-- is a recorded step: in a replay it returns what it returned before.

---What every action takes.
---@class Step
---@field name? string of the step, shown in the timeline
---@field retries? integer 8
---@field timeout? Duration per try, "30s" at most; "30s"
---@field in_doubt? "sent"|"drop" of a send or an own action: what counts when nobody can find out

---What an action raises; pcall catches it.
---@class ActionError
---@field action string
---@field code "refused"|"unavailable"
---@field message string
---@field status? integer
---@field attempts integer

-- Sends --------------------------------------------------------------------------------------------

---@class Send: Step
---@field to Customer|Technician|string a record, or a role of company.people
---@field text? string with placeholders: {customer.first_name or there}
---@field template? string workflows/templates/NAME.txt
---@field subject? string of an e-mail
---@field with? table extra values for placeholders
---@field class? "marketing"|"transactional" the workflow's
---@field fallback? "email" where there is no mobile number
---@field once? string this customer never gets that again, from any instance
---@field not_after? Time

---@class Sent
---@field status "sent"|"suppressed"
---@field reason? string opted_out no_consent do_not_service no_address undeliverable cap too_late …
---@field time Time
---@field channel "sms"|"email"
---@field id string
---@field shadow? boolean

---@class sms
sms = {}

---@param options Send
---@return Sent
function sms.send(options) end

---@class email
email = {}

---@param options Send
---@return Sent
function email.send(options) end

-- GoHighLevel --------------------------------------------------------------------------------------

---@class GhlResult
---@field id? string
---@field was? { pipeline: string, stage: string } where it stood before
---@field conflict? boolean two records fit
---@field skipped? string why nothing was done

---@class GhlCustomer: Step
---@field customer Customer
---@field pipeline? string
---@field stage? string

---@class GhlEstimate: Step
---@field estimate Estimate
---@field stage? string

---@class GhlMove: Step
---@field of Customer|Estimate|Job|Invoice|Appointment whose opportunity
---@field pipeline? string
---@field stage? string
---@field status? "open"|"won"|"lost"|"abandoned"
---@field value? Money
---@field reason? string

---@class GhlSold: Step
---@field estimate Estimate

---@class GhlInstall: Step
---@field job Job

---@class GhlAll: Step

---@class GhlCopied
---@field seen? integer
---@field matched? integer of whom ServiceTitan knows the customer
---@field linked? integer of those, the ones that weren't known before
---@field skipped? string why nothing was done

---@class GhlMoved
---@field moved? integer
---@field skipped? integer|string
---@field failed? integer
---@field message? string of the first that failed

---@class GhlTag: Step
---@field customer Customer
---@field tag string

---@class ghl
ghl = {}

---@param options GhlCustomer
---@return GhlResult
function ghl.sync_customer_to_ghl(options) end

---@param options GhlEstimate
---@return GhlResult
function ghl.sync_estimate_to_ghl(options) end

---@param options GhlMove
---@return GhlResult
function ghl.move_opportunity(options) end

---@param options GhlSold
---@return GhlResult
function ghl.move_opportunity_to_job_sold(options) end

---@param options GhlInstall
---@return GhlResult
function ghl.move_opportunity_to_install_pipeline(options) end

---@param options GhlTag
---@return GhlResult
function ghl.add_tag(options) end

---Copies all contacts of GHL and finds out whose they are.
---@param options GhlAll
---@return GhlCopied
function ghl.sync_contacts_from_ghl(options) end

---Copies all opportunities of GHL: what was moved there is known here.
---@param options GhlAll
---@return GhlCopied
function ghl.sync_opportunities_from_ghl(options) end

---Moves install jobs that aren't over, whose opportunity isn't in the pipeline of installs yet.
---@param options GhlAll
---@return GhlMoved
function ghl.process_install_job_moves(options) end

-- Time ---------------------------------------------------------------------------------------------

---@class Shift
---@field before? Duration
---@field after? Duration
---@field at? string "17:00" on that day's clock
---@field zone? string the customer's

---@param duration Duration
function sleep(duration) end

---@param t Time|Date|"open" "open": until the office is
---@param options? Shift
---@return boolean waited false at once if that time had passed
function sleep_until(t, options) end

---The reckoning of sleep_until as a value; pure.
---@param t Time|Date
---@param options? Shift
---@return Time
function moment(t, options) end

---@class Calendar
---@field ymd Date
---@field year integer
---@field month integer
---@field day integer
---@field weekday integer 1 is Monday
---@field hour integer
---@field minute integer

---@param t Time|Date
---@param zone? string the customer's
---@return Calendar
function date(t, zone) end

---The time of the last step, the same in every replay.
---@return Time
function now() end

-- Waiting ------------------------------------------------------------------------------------------

---@class Wait
---@field same? string|table an entity that both carry, a record, or a list of records
---@field when? fun(it: Event, e: Event): any an extra condition
---@field timeout? Duration|Time
---@field since? Time also what came since then; the instance's beginning

---@param what string|string[] an event, or several
---@param options? Wait
---@return Event? event nil when the time is over
function wait_for(what, options) end

-- Reading ------------------------------------------------------------------------------------------

---The newest row of a record, or of all records of an event; nil when it is gone.
---@generic T
---@param what T
---@return T?
function fresh(what) end

---Read-only views named like the entities; :name are parameters.
---@class db
db = {}

---@param sql string
---@param params? table<string, any>
---@return table[]
function db.rows(sql, params) end

---@param sql string
---@param params? table<string, any>
---@return table?
function db.row(sql, params) end

---@param sql string
---@param params? table<string, any>
---@return any
function db.value(sql, params) end

---Exact to the cent.
---@param list table[]
---@param field string
---@return Money
function sum(list, field) end

-- Flow ---------------------------------------------------------------------------------------------

---Own code as one step: its result is recorded, up to 1 MB. In f there are http.get and http.post, and no
---other effect and no wait. After a crash f may run again, from its start. retries and timeout are those of
---each call of http.
---@generic T
---@param name string
---@param f fun(): T
---@return T
---@overload fun(name: string, options: { retries: integer?, timeout: Duration? }, f: fun(): any): any
function step(name, f) end

---Side by side; waits for all, then raises the first error.
---@param functions table<any, fun(): any> a list, or by name
---@return table results in the same places
function all(functions) end

---Starts another workflow for an event, or for { customer = … }. It goes on when this one ends, and
---stops when this one is stopped, unless it is detached.
---@param name string
---@param e Event|{ customer: Customer }
---@param options? { detached: boolean }
---@return string id of its instance
function start(name, e, options) end

---Starts another workflow and waits for its end: what its run returned; nil and why when it was
---stopped. Raises when it failed.
---@param name string
---@param e Event|{ customer: Customer }
---@return any value
---@return string? why
function call(name, e) end

---An event that events.lua declares with manual = true.
---@param name string
---@param what { customer: Customer?, data: table? } its subject's record, and what it says
function emit(name, what) end

---Undoes a step: run as steps, the last first, when the instance is stopped or fails.
---@param f fun()
function compensate(f) end

---Ends this run and begins the next with an empty history: the same instance, key and stops.
---@param e Event
function continue_as(e) end

---A line in the timeline, with placeholders.
---@param text string
---@param with? table
function note(text, with) end

---Ends the instance as stopped.
---@param reason? string
function stop(reason) end

---Ends the instance as failed.
---@param reason? string
function fail(reason) end

---A number from 0 to 1, from 1 to low, or from low to high; the same in every replay.
---@param low? integer
---@param high? integer
---@return number
function random(low, high) end
