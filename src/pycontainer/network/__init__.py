"""Networks: namespaces, links, addresses and names, and the ways into and out of them."""
