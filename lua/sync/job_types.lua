-- Job types. There is no export of them, and the list has no order: it is read whole.
return {
  name = "job_types",
  of = "job_type",
  table = "st_job_types",
  query = "active=Any",
  list = "/jpm/v2/tenant/{tenant}/job-types",
  by_id = { path = "/jpm/v2/tenant/{tenant}/job-types", parameter = "ids", query = "active=Any" },
  columns = {
    { "id", "bigint", "id" },
    { "active", "boolean", "active", default = "true" },
    { "name", "text", "name", default = "''" },
    { "class", "text", "class" },
    { "priority", "text", "priority" },
    { "duration", "bigint", "duration" },
    { "no_charge", "boolean", "noCharge" },
    { "business_unit_ids", "bigint[]", "businessUnitIds" },
    { "created_on", "timestamptz", "createdOn" },
    { "modified_on", "timestamptz", "modifiedOn" },
  },
}
