-- Phones and e-mail addresses of customers. They have a feed of their own: a changed contact
-- does not touch its customer.
return {
  name = "contacts",
  of = "contacts",
  table = "st_contacts",
  export = "/crm/v2/tenant/{tenant}/export/customers/contacts",
  by_id = { path = "/crm/v2/tenant/{tenant}/customers/contacts", parameter = "customerIds" },
  columns = {
    { "id", "bigint", "id" },
    { "customer_id", "bigint", "customerId" },
    { "active", "boolean", "active", default = "true" },
    { "type", "text", "type" },
    { "value", "text", "value", default = "''" },
    { "phone", "text", { "type", "value" }, with = "contact_phone" },
    { "email", "text", { "type", "value" }, with = "contact_email" },
    { "memo", "text", "memo" },
    { "do_not_text", "boolean", "phoneSettings.doNotText", default = "false" },
    { "marketing", "boolean", "preferences.marketingUpdatesEnabled" },
    { "reminders", "boolean", "preferences.jobRemindersEnabled" },
    { "created_on", "timestamptz", "createdOn" },
    { "modified_on", "timestamptz", "modifiedOn" },
  },
}
