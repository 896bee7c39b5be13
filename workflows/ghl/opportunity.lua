-- A ServiceTitan estimate or job as a GoHighLevel opportunity. Pipeline and stage go by name.
local statuses = { Sold = "won", Dismissed = "lost" }

return mapping { of = "estimate",
  map = function(x)
    if x.of == "estimate" then
      return { name = x.customer.name .. " #" .. x.estimate.id, monetaryValue = x.estimate.total,
        status = statuses[x.estimate.status] or "open", pipeline = "Sales",
        customFields = { { key = "st_estimate_id", field_value = tostring(x.estimate.id) } } }
    elseif x.of == "job" then
      return { name = x.customer.name .. " job " .. x.job.number, monetaryValue = x.job.total,
        pipeline = "Sales",
        customFields = { { key = "st_job_id", field_value = tostring(x.job.id) } } }
    end
    return { name = x.customer.name, pipeline = "Sales" }
  end }
