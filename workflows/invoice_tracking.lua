-- Watches an invoice until it is paid or due.
return workflow {
  on = "invoice_created",
  when = function(e) return e.invoice.balance ~= nil and e.invoice.balance > 0 end,
  run = function(e)
    if wait_for("invoice_paid", { timeout = e.invoice.due_date or "30d" }) then return "paid" end
    return "unpaid when due"
  end }
