-- staff.task, staff.cancel_task, staff.tell, approve: what people of ours are asked and told.
local context = require "context"
local send = require "send"

local json = host.json

local ASK = "select staff_ask($1::uuid, $2, $3::json)"

local function ask(ctx, a, more)
  more.to, more.due = a.to or a.by, a.due
  more.title = send.fill_for_staff(ctx, a.title, more.to, a.with, "title")
  local note = a.note or a.text
  more.note = note and send.fill_for_staff(ctx, note, more.to, a.with, a.note and "note" or "text")
  send.channel_of(ctx, more.to) -- the role must be there
  return ctx:query("own", ASK, ctx.instance, ctx.owner, json.encode(more))
end

-- A role by its phone, else by e-mail; a person by what the record has.
local function tell(ctx, to, text, with, subject)
  local channel = type(to) == "string" and send.channel_of(ctx, to) or to.phone and "sms" or "email"
  return send.send(ctx, { to = to, text = text, with = with,
    subject = channel == "email" and subject or nil }, channel)
end

-- Where nobody can be told, the approval is still in the inbox.
local function notify(ctx, a, task)
  local url = ctx.settings.PUBLIC_URL
  local with = { title = task.title, note = task.note or "", link = url and url ~= ""
    and url .. "/approve/" .. task.id .. "." .. task.token or "moonwright inbox" }
  with.note = with.note:sub(1, utf8.offset(with.note, 1001) and utf8.offset(with.note, 1001) - 1 or -1)
  local text = with.note == "" and "{title}\n{link}" or "{title}\n{note}\n{link}"
  local ok, err = pcall(tell, ctx, a.by, text, with, "{title}")
  if not ok and not (type(err) == "table" and err.mark == context.FAILED) then
    error(err, 0)
  end
end

return {
  ["staff.task"] = {
    args = { to = "string", title = "string", note = "string?", due = "time?", with = "table?" },
    run = function(ctx, a)
      return ask(ctx, a, {})
    end,
  },
  ["staff.cancel_task"] = {
    args = { task = "table" },
    run = function(ctx, a)
      return ctx:query("own", "select staff_cancel($1)", a.task.id)
    end,
  },
  ["staff.tell"] = {
    args = { to = "any", text = "string", with = "table?", subject = "string?" },
    run = function(ctx, a)
      return tell(ctx, a.to, a.text, a.with, a.subject or "{company.name or Moonwright}")
    end,
  },
  approve = {
    args = { by = "string", title = "string", text = "string?", with = "table?", yes = "string?",
      no = "string?", due = "time?" },
    run = function(ctx, a)
      local task = ask(ctx, a, { approval = true, yes = a.yes, no = a.no })
      notify(ctx, a, task)
      task.token = nil
      return task
    end,
  },
}
