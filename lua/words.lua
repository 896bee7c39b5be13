-- The author's words in `run`: what company files see beside plain Lua. Built once per VM; a word
-- finds its instance through durable.task().
local campaign = require "words.campaign"
local children = require "words.children"
local durable = require "durable"
local own = require "own"
local people = require "words.people"
local records = require "words.records"
local template = require "template"
local time = require "words.time"
local tries = require "tries"
local wait = require "words.wait"

local M = {}

local raise = durable.raise

-- Actions of ours, by the namespace that calls them. The company's own come from its actions/.
local OURS = {
  sms = { "send" },
  email = { "send" },
  ghl = { "sync_customer_to_ghl", "sync_estimate_to_ghl", "move_opportunity",
    "move_opportunity_to_job_sold", "move_opportunity_to_install_pipeline", "add_tag",
    "sync_contacts_from_ghl", "sync_opportunities_from_ghl", "process_install_job_moves" },
  staff = { "task", "cancel_task", "tell" },
  servicetitan = { "confirm_appointment", "reschedule", "create_job", "update_visit" },
  agent = { "run" },
}

local OPTIONS = { name = "string", retries = "number", timeout = "string", in_doubt = "string" }
local KEPT = { "sms.send", "email.send" } -- of ours, those that may take in_doubt

-- in_doubt is for what may be out and can't be looked for: messages, and the company's own actions.
local function check_options(action, options)
  local ours = OURS[action:match "^[^.]+"] ~= nil
  if options.in_doubt and ours and action ~= KEPT[1] and action ~= KEPT[2] then
    raise(action .. ": in_doubt is an option of sms.send, email.send and the company's own actions")
  end
  durable.checked(tries.check, options, action)
end

local function split_options(action, args)
  if args ~= nil and type(args) ~= "table" then
    raise(action .. " takes one table: " .. action .. " { … }")
  end
  if not args or action == "agent.run" or args.name == nil and args.retries == nil
    and args.timeout == nil and args.in_doubt == nil then
    return args or {}, durable.NO_OPTIONS
  end
  local rest, options = {}, {}
  for k, v in pairs(args) do
    local wanted = OPTIONS[k]
    if wanted and type(v) == wanted then
      options[k] = v
    elseif wanted then
      raise(action .. ": " .. k .. " must be a " .. wanted)
    else
      rest[k] = v
    end
  end
  check_options(action, options)
  return rest, options
end

local function action(name)
  return function(args)
    local rest, options = split_options(name, args)
    return durable.step(name, rest, options)
  end
end

-- functions is a list of names, or true: any.
local function namespace(name, functions)
  local ns = {}
  if functions == true then
    return setmetatable(ns, { __index = function(_, f)
      return action(name .. "." .. tostring(f))
    end })
  end
  for _, f in ipairs(functions) do
    ns[f] = action(name .. "." .. f)
  end
  return ns
end

local function add_flow(api, company)
  function api.note(text, with)
    if type(text) ~= "string" then
      raise("note takes a text")
    end
    local e = durable.task().event
    local shown = durable.checked(template.fill, text, { with = with, e = e, company = company,
      zone = e.customer and e.customer.zone or company.zone })
    durable.record("note", { text, with }, { text = shown }, "note")
  end

  function api.stop(reason)
    durable.finish("stopped", reason and tostring(reason))
  end

  function api.fail(reason)
    durable.finish("failed", reason and tostring(reason))
  end

  -- The same instance goes on, under its key and with its stops.
  function api.continue_as(e)
    if type(e) ~= "table" then
      raise("continue_as takes the event of the next run: continue_as(e)")
    end
    local event = {}
    for k, v in pairs(e) do
      event[k] = v
    end
    event.name, event.of = event.name or "continued", event.of or "customer"
    event.time = event.time or durable.task().now
    durable.continue(event)
  end

  function api.compensate(f)
    if type(f) ~= "function" then
      raise("compensate takes a function: compensate(function() … end)")
    end
    durable.compensate(f)
  end

  function api.random(low, high)
    local r = durable.random()
    if not low then
      return r
    elseif not high then
      low, high = 1, low
    end
    return low + math.floor(r * (high - low + 1))
  end

  function api.step(name, options, f)
    if type(options) == "function" and f == nil then
      options, f = {}, options
    end
    if type(name) ~= "string" or type(options) ~= "table" or type(f) ~= "function" then
      raise('step takes a name and a function: step("name", function() … end)')
    end
    for option in pairs(options) do
      if option ~= "retries" and option ~= "timeout" then
        raise("step '" .. name .. "': it has the options retries and timeout, not " .. tostring(option))
      end
    end
    durable.checked(tries.check, options, "step '" .. name .. "'")
    return own.step(name, options, f)
  end

  api.http = own.http

  function api.all(functions)
    if type(functions) ~= "table" then
      raise("all takes a table of functions")
    end
    for _, f in pairs(functions) do
      if type(f) ~= "function" then
        raise("all takes a table of functions")
      end
    end
    return durable.all(functions)
  end
end

--- The globals of a version's files.
---@param world table {actions = {ns = {name}}, events = {name = rule}, company = {zone, hours}}
---@return table
function M.build(world)
  local api = {}
  for name, functions in pairs(world.actions) do
    api[name] = namespace(name, functions)
  end
  for name, functions in pairs(OURS) do
    api[name] = namespace(name, functions)
  end
  function api.workflow(declaration)
    return declaration
  end
  local deadline_of, staff_deadline_of = time.add(api, world.company)
  wait.add(api, world.events, deadline_of)
  people.add(api, staff_deadline_of, split_options)
  records.add(api)
  children.add(api)
  campaign.add(api)
  add_flow(api, world.company)
  return api
end

return M
