"""Which library decodes what, and at which cost in memory and time.

Every module has `decode(data, header, reduction)`, which gives upright-less uint8 RGB [h, w, 3] or raises
`ImageInvalid`, and `cost(header, reduction, length)`, an upper bound of its bytes above the file and an
estimate of its seconds. `header` is what `models.headers.reader.read_header` gave for the same bytes.
"""
