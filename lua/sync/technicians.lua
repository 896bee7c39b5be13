-- Technicians.
return {
  name = "technicians",
  of = "technician",
  table = "st_technicians",
  export = "/settings/v2/tenant/{tenant}/export/technicians",
  by_id = { path = "/settings/v2/tenant/{tenant}/technicians", parameter = "ids", query = "active=Any" },
  columns = {
    { "id", "bigint", "id" },
    { "active", "boolean", "active", default = "true" },
    { "name", "text", "name", default = "''" },
    { "business_unit_id", "bigint", "businessUnitId" },
    { "email", "text", "email", with = "email_normal" },
    { "phone", "text", "phoneNumber", with = "phone_e164" },
    { "team", "text", "team" },
    { "created_on", "timestamptz", "createdOn" },
    { "modified_on", "timestamptz", "modifiedOn" },
  },
}
