-- A ServiceTitan customer as a GoHighLevel contact.
return mapping { of = "customer",
  map = function(x)
    local c = x.customer
    return {
      firstName = c.first_name, lastName = c.last_name, name = c.name, phone = c.phone, email = c.email,
      address1 = c.address, city = c.city, state = c.state, postalCode = c.zip, timezone = c.zone,
      source = "ServiceTitan",
      customFields = { { key = "st_customer_id", field_value = tostring(c.id) } },
    }
  end }
