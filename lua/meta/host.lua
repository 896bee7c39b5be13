---@meta
-- What trusted Lua gets from C (src/script/host.c). For editors; never run.

---@class host
host = {}

---The first 64 bits of SHA-256, as 16 hex digits.
---@param text string
---@return string
function host.hash(text) end

---@param text string
---@param digits? integer how many of the 64
---@return string digits in hex
function host.sha256(text, digits) end

---@param bytes integer 1 to 64
---@return string digits two per byte
function host.random_hex(bytes) end

---Real time. Business time comes from the database.
---@return integer seconds since 1970
function host.now() end

---@param level "debug"|"info"|"warn"|"error"
---@param message string constant; what varies is a field
---@param ... any key, value, at most eight pairs
function host.log(level, message, ...) end

---What the company's Lua is asked from now on.
---@param part "when"|"key"|string
---@param name string of the workflow or rule
---@param about string
---@param watched boolean should it kill the process, the next life is to know
function host.judging(part, name, about, watched) end

---The company's Lua is asked nothing more.
---@return boolean whether each question is of interest, watched or not
function host.judged() end

---The company's line that is being run: "workflows/followup.lua:12".
---@return string?
function host.where() end

---The message with the stack; fit for xpcall.
---@param message any
---@return any
function host.traceback(message) end

---How many arguments it can take; 255 when any number.
---@param f function
---@return integer
function host.parameters(f) end

---The locals of enclosing functions that a function uses.
---@param f function
---@return { name: string, value: any }[]
function host.upvalues(f) end

---A message to the owner of the running task, delivered after the next yield. Only in a vm.
---@param ... string|number|nil
function host.post(...) end

---What comes is another turn of a body that is replayed, with a budget of its own. In a vm only.
function host.burst() end

---A coroutine.yield of the task itself whose answer lacks what says who asked. In a vm only.
---@param ... string?
---@return string ...
function host.ask(...) end

---What the owner of the task lends it. In a vm only.
---@param name string "event": of its instance, as JSON; of an action call also "owner", "now", "options"
---@return string?
function host.lent(name) end

---@class host.zone
host.zone = {}

---@param zone string
---@param at number seconds since 1970
---@return { year: integer, month: integer, day: integer, hour: integer, minute: integer, second: integer, weekday: integer, offset: integer }
function host.zone.civil(zone, at) end

---A time that DST skips moves forward; of one that comes twice it is the first.
---@param zone string
---@param civil { year: integer?, month: integer?, day: integer?, hour: integer?, minute: integer?, second: integer? }
---@return integer seconds since 1970
function host.zone.instant(zone, civil) end

---@param name any
---@return boolean
function host.zone.exists(name) end

---@class host.cron
host.cron = {}

---@param text string "30 7 * * 1-5", or with the second first
---@return string? why it is no schedule
function host.cron.refused(text) end

---The first fire after a time; nothing when there is none in ten years.
---@param text string
---@param zone string
---@param gap "next"|"skip"
---@param fold "first"|"last"|"both"
---@param after number seconds since 1970
---@return integer? at
---@return "moved"|"skipped"|"first"|"last"|nil note what the clocks do to it; skipped is no fire
function host.cron.next(text, zone, gap, fold, after) end

---@class host.json
---@field null userdata what a null is when nulls are kept
host.json = {}

---Raises "not JSON: …". Integers beyond 2^53 are texts.
---@param text string
---@param keep_nulls? boolean else null is an absent key, and falls out of arrays
---@return any
function host.json.decode(text, keep_nulls) end

---The canonical text; raises with the path of what can't be carried.
---@param value any
---@return string
function host.json.encode(value) end

---Marks a table as an array, even when it is empty.
---@generic T
---@param list T[]
---@return T[]
function host.json.array(list) end

---@param value any
---@return boolean
function host.json.is_array(value) end

---string.find and its kin on a matcher that asks the budget.
---@class host.pattern
host.pattern = { find = string.find, match = string.match, gmatch = string.gmatch,
  gsub = string.gsub }
