-- Who works on which appointment of which job.
return {
  name = "assignments",
  table = "job_technicians",
  export = "/dispatch/v2/tenant/{tenant}/export/appointment-assignments",
  query = "active=Any",
  columns = {
    { "id", "bigint", "id" },
    { "job_id", "bigint", "jobId" },
    { "technician_id", "bigint", "technicianId" },
    { "appointment_id", "bigint", "appointmentId" },
    { "active", "boolean", "active", default = "true" },
    { "status", "text", "status" },
    { "technician_name", "text", "technicianName" },
    { "assigned_on", "timestamptz", "assignedOn" },
    { "created_on", "timestamptz", "createdOn" },
    { "modified_on", "timestamptz", "modifiedOn" },
  },
}
