---@meta
-- The words of `run` that ask and tell people of ours, and those of campaigns. For editors; never run.

---@class Approve
---@field by string a role of company.people
---@field title string with placeholders
---@field text? string with placeholders; whoever answers may edit it
---@field with? table extra values for placeholders
---@field yes? string what the buttons say
---@field no? string
---@field timeout? Duration|Time
---@field name? string of the step

---@class Answer
---@field approved boolean
---@field by? string who answered
---@field text? string as it was edited
---@field note? string
---@field timed_out boolean

---Asks a role by text, with a link that counts once, and in `moonwright inbox`.
---@param options Approve
---@return Answer
function approve(options) end

---@class StaffTask: Step
---@field to string a role of company.people
---@field title string with placeholders
---@field note? string with placeholders
---@field due? Duration|Time
---@field with? table extra values for placeholders

---@class Task
---@field id string
---@field to string
---@field title string
---@field note? string
---@field due? Time
---@field time Time

---@class StaffCancel: Step
---@field task Task

---@class StaffTell: Step
---@field to string|Technician a role of company.people, or a technician
---@field text string with placeholders
---@field with? table extra values for placeholders
---@field subject? string of an e-mail

---@class staff
staff = {}

---A to-do; once it is done there is an event task_done, same = task.
---@param options StaffTask
---@return Task
function staff.task(options) end

---@param options StaffCancel
function staff.cancel_task(options) end

---@param options StaffTell
---@return Sent
function staff.tell(options) end

-- Campaigns ----------------------------------------------------------------------------------------

---One of several, by a hash of the customer: a name of the list, or the value under the chosen name.
---@param name string
---@param variants table
---@return any
function variant(name, variants) end

---@class Audience
---@field id string
---@field count integer
---@field sample string the names of the first

---A frozen list of the customer_ids that a query on the views finds.
---@param sql string
---@param params? table<string, any>
---@return Audience
function audience(sql, params) end

---A child for each customer of an audience.
---@param name string a workflow
---@param people Audience
---@return integer count
function start_each(name, people) end

---@class Children
---@field total integer
---@field live integer
---@field done integer
---@field stopped integer
---@field failed integer
---@field stuck integer
---@field sent integer messages that left
---@field opted_out integer

---How the children of this instance do.
---@return Children
function children() end
