---@meta
-- The words of `run` that ask and tell people of ours. For editors; never run.

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
