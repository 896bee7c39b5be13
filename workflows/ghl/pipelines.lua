-- Where opportunities go, by the names that GoHighLevel shows.
return {
  sold = { pipeline = "Sales", stage = "Job Sold", status = "won" },
  install = { pipeline = "Install", stage = "Install scheduled", class = "Install" }, -- of job types
}
