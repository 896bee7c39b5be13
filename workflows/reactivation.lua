-- A campaign for customers who haven't had us in for about a year: `moonwright start reactivation '{}'`.
-- This parent asks the manager, starts a child for each customer, and stops them all when too many
-- opt out or fail.
return workflow {
  run = function()
    local people = audience [[select id as customer_id from customers where not do_not_service
      and last_job_on between current_date - 540 and current_date - 330
      and id not in (select customer_id from live_sequences)]]
    if not approve { by = "manager", title = "Reactivate {people.count} customers?", text = "{people.sample}",
      with = { people = people }, timeout = "3d" }.approved then return "not approved" end
    start_each("reactivation_touch", people)
    repeat
      sleep "30m"
      local c = children()
      if c.sent >= 100 and c.opted_out > 0.03 * c.sent then stop "opt-outs above 3 %" end
      if c.total >= 100 and c.failed + c.stuck > 0.05 * c.total then stop "errors above 5 %" end
    until c.live == 0
  end }
