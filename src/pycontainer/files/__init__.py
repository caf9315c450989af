"""A container's files, from outside: paths (`paths`) and copying in and out (`copy`).

Everything goes through the container's file agent (`Container._served`): what is inside never leads out.
"""
