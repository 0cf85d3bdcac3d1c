"""``cimport backprop``: what _core.pxd declares and documents."""

from backprop._core cimport (
    NetworkHandle, bytes_of_real, forward, network_of, number_of_inputs, number_of_outputs, number_of_params,
    number_of_threads, value_and_grad,
)
