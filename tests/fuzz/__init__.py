"""The differential fuzzer: random objects and functions through every route, compared with the oracle.

    shapes      what can be told of a graph of objects: values, types, and which objects are one
    graphs      random graphs, of the classes that users write
    functions   what workers do with them, and the callables that do it
    oracle      what must come back, as docs say what a call promises
    routes      the ways on which a call can be made
    episodes    one case: a pool, its calls, and what befalls it meanwhile
    run         `make fuzz`

Workers import `shapes`, `graphs` and `functions`, which import no more of this than they need.
"""
