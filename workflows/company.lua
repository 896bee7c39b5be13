-- Who we are. Read at the time of each send, so a correction helps what is already under way.
return company {
  name = "Bright Air",
  zone = "America/New_York",
  phone = "+18005550100",
  hours = { mon_fri = "08:00-18:00" },
  people = {
    office = "office@brightair.example",
    csr = "csr@brightair.example",
    manager = "manager@brightair.example",
  },
  links = {
    booking = "https://brightair.example/book",
    review = "https://brightair.example/review",
  },
}
