-- emit: an event of the company's own, settled by detection like one that a person sends.
local json = host.json

return {
  emit = {
    args = { event = "string", of = "string", of_id = "string", payload = "table" },
    run = function(ctx, a)
      return ctx:query("own", "select emit_event($1::uuid, $2, $3, $4, $5, $6::json)",
        ctx.instance, ctx.owner, a.event, a.of, a.of_id, json.encode(a.payload))
    end,
  },
}
