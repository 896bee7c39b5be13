-- Marketing campaigns. There is no export of them.
return {
  name = "campaigns",
  of = "campaign",
  table = "st_campaigns",
  query = "active=Any&sort=%2BModifiedOn",
  list = "/marketing/v2/tenant/{tenant}/campaigns",
  by_id = { path = "/marketing/v2/tenant/{tenant}/campaigns", parameter = "ids", query = "active=Any" },
  columns = {
    { "id", "bigint", "id" },
    { "active", "boolean", "active", default = "true" },
    { "name", "text", "name", default = "''" },
    { "category", "text", "category.name" },
    { "source", "text", "source" },
    { "medium", "text", "medium" },
    { "created_on", "timestamptz", "createdOn" },
    { "modified_on", "timestamptz", "modifiedOn" },
  },
}
