-- Business units. ghl_pipeline_id is ours and not among the columns.
return {
  name = "business_units",
  of = "business_unit",
  table = "st_business_units",
  export = "/settings/v2/tenant/{tenant}/export/business-units",
  by_id = { path = "/settings/v2/tenant/{tenant}/business-units", parameter = "ids", query = "active=Any" },
  columns = {
    { "id", "bigint", "id" },
    { "active", "boolean", "active", default = "true" },
    { "name", "text", "name", default = "''" },
    { "official_name", "text", "officialName" },
    { "email", "text", "email" },
    { "phone", "text", "phoneNumber" },
    { "trade", "text", "trade.name" },
    { "division", "text", "division.name" },
    { "created_on", "timestamptz", "createdOn" },
    { "modified_on", "timestamptz", "modifiedOn" },
  },
}
