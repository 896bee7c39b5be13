-- Tag types: the names of the tags of customers and jobs. There is no export of them.
return {
  name = "tag_types",
  table = "st_tag_types",
  query = "active=Any&sort=%2BModifiedOn",
  list = "/settings/v2/tenant/{tenant}/tag-types",
  columns = {
    { "id", "bigint", "id" },
    { "active", "boolean", "active", default = "true" },
    { "name", "text", "name", default = "''" },
    { "created_on", "timestamptz", "createdOn" },
    { "modified_on", "timestamptz", "modifiedOn" },
  },
}
