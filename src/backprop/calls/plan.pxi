# `Plan`: what the Python layer holds of a network's shape, and the calls that it makes.
# Needs: calls/quick, accepted, partial, ensemble, epochs, training, parameters; recursion/shape; schedule/free_lists.
# Gives: Plan (to Python).

cdef class Plan:
    """What depends on a network's shape alone, worked out once: layers, offsets, kernels, size of the tile.

    Its methods take arrays that api/ has accepted: C-contiguous, aligned, of the network's dtype; but x and y of any
    real dtype and layout. They may be called by many threads at once: each call takes its buffers from the free lists.
    """

    cdef Shape shape
    cdef FreeLists free_lists
    cdef list functions          # of activations of the user's own, which layers point to

    def __cinit__(self, sizes, activations, loss, Py_ssize_t itemsize):
        """Sizes n_0..n_L, (code, parameter) for layers 1..L, (code, parameters, acts_on_a, code of the link).

        A loss has one parameter, or one for each output. An activation of the user's own adds a tuple of its four
        functions, and whether they are addresses in C.
        """
        cdef Shape* shape = &self.shape
        shape.free_lists = &self.free_lists
        shape.kernels = kernel_table(itemsize)
        shape.itemsize = itemsize
        shape.n_layers = len(sizes) - 1
        shape.layers = <Layer*>calloc(shape.n_layers + 1, sizeof(Layer))
        shape.sizes = <Py_ssize_t*>calloc(shape.n_layers + 1, sizeof(Py_ssize_t))
        if shape.layers == NULL or shape.sizes == NULL:
            raise MemoryError("the shape of the layers does not fit into memory")
        for i, n in enumerate(sizes):
            shape.sizes[i] = n
        self.functions = []
        shape.has_second = shape.has_third = True
        for i, (code, parameter, *own) in enumerate(activations, start=1):
            shape.layers[i].activation = code
            shape.layers[i].parameter = parameter
            if own:
                functions, is_c = own
                self.functions.append(functions)
                shape.has_second = shape.has_second and functions[2] is not None
                shape.has_third = shape.has_third and functions[3] is not None
                shape.layers[i].functions = <void*>functions
                shape.has_own = True
                shape.is_serial = shape.is_serial or not is_c
                if is_c:
                    for k in range(4):
                        shape.layers[i].c_functions[k] = <void*><size_t>(functions[k] or 0)
        shape.loss, loss_parameters, shape.loss_acts_on_a, shape.link = loss
        shape.loss_parameters = <double*>calloc(len(loss_parameters), sizeof(double))
        if shape.loss_parameters == NULL:
            raise MemoryError("the parameters of the loss do not fit into memory")
        for i, parameter in enumerate(loss_parameters):
            shape.loss_parameters[i] = parameter
        lay_out_layers(shape)

    def __dealloc__(self):
        free_lists_of(&self.free_lists)
        free(self.shape.layers)
        free(self.shape.sizes)
        free(self.shape.loss_parameters)

    # Calls: Python's way into them -----------------------------------------------------------------------------------

    def quick_value_and_grad(self, Parameters own, params, x, y, weight, out, n_threads, get_num_threads):
        """`quick` for value_and_grad: of the smallest calls, each argument less saves a hundredth."""
        return quick_call(&self.shape, mode_of_value_and_grad, own, params, x, y, weight, out, n_threads,
                          get_num_threads, None, None, None, None)

    def quick(self, Call call not None, Parameters own, params, x, y, weight, out, n_threads, get_num_threads,
              operand=None, max_norm=None, grad_weight=None, Linearization linearization=None):
        """What the call returns, for arguments that need neither conversion nor an error message; else None.

        own are the network's parameters, which out must not overlap either. The others are as the user gave them:
        operand is v, cotangent or grad_x, grad_weight one number for all input gradients. linearization is hvp's, and
        keeps what does not depend on v. If None comes back, nothing was written.
        """
        return quick_call(&self.shape, &call.mode, own, params, x, y, weight, out, n_threads, get_num_threads,
                          operand, max_norm, grad_weight, linearization)

    def run(self, Call call not None, cnp.ndarray params, cnp.ndarray x, cnp.ndarray y, cnp.ndarray out, weights,
            int n_threads, cnp.ndarray operand=None, double max_norm=0, cnp.ndarray grad_weight=None,
            cnp.ndarray rows=None, Linearization linearization=None, cnp.ndarray free=None, Equation equation=None,
            cnp.ndarray equation_rows=None):
        """A call of the table, with accepted arrays, into out; returns the loss, if there is one.

        weights is None, or (array, scale, sum, n_kept) as `look_at_weights` sums them up; from a call by sample rows
        of weight 0 must have been left out. rows is for results by sample beside sums, operand is v, cotangent or
        grad_x, or multipliers (n_L,) or (n_samples, n_L); grad_weight is (n_L, n_0), free a mask (n_params,),
        equation_rows are an equation's coefficients by sample. Each is None if the call has no such thing.
        """
        return accepted_call(&self.shape, &call.mode, params, x, y, out, weights, n_threads, operand, max_norm,
                             grad_weight, rows, linearization, free, NULL, 0, equation, equation_rows)

    def input_jet(self, cnp.ndarray params not None, cnp.ndarray x not None, cnp.ndarray directions,
                  cnp.ndarray y not None, cnp.ndarray dy not None, cnp.ndarray d2y not None, int n_threads):
        """y_hat (n, n_L), its first and second derivatives (n, n_L, k), into these arrays.

        directions is (k, n_0), (n, k, n_0), or None for the axes.
        """
        accepted_jet(&self.shape, params, x, directions, y, dy, d2y, n_threads)

    def jet_vjp(self, cnp.ndarray params not None, cnp.ndarray x not None, cnp.ndarray directions, cnp.ndarray cot_y,
                cnp.ndarray cot_dy, cnp.ndarray cot_d2y, cnp.ndarray grad_params not None, cnp.ndarray grad_x not None,
                int n_threads):
        """The way back: cotangents of `input_jet`, or None for 0, to the parameters (n_params,) and to x (n, n_0)."""
        accepted_jet_vjp(&self.shape, params, x, directions, cot_y, cot_dy, cot_d2y, grad_params, grad_x, n_threads)

    def unit_rows(self, Call call not None, Py_ssize_t n_kept):
        """Samples of a unit, of n_kept that have a weight other than 0; n_kept or more if they are all one unit."""
        return rows_of_unit(&self.shape, &call.mode, n_kept)

    def partial(self, Call call not None, cnp.ndarray params not None, cnp.ndarray x not None, cnp.ndarray y, weights,
                int n_threads, int8_t[::1] top not None, int64_t[:, ::1] limbs not None, Py_ssize_t n_kept_in_all,
                cnp.ndarray operand=None, double max_norm=0, cnp.ndarray grad_weight=None, cnp.ndarray rows=None,
                Linearization linearization=None, cnp.ndarray free=None, Equation equation=None,
                cnp.ndarray equation_rows=None):
        """The sums of whole units of a larger data set, and their loss behind them, as bins in top and limbs.

        As `run`, but weights has the scale of the whole data set. n_kept_in_all counts its samples that have a weight
        other than 0; there must be more than a unit of them.
        """
        run_part(&self.shape, &call.mode, params, x, y, weights, n_threads, top, limbs, n_kept_in_all, operand,
                 max_norm, grad_weight, rows, linearization, free, equation, equation_rows)

    def finish(self, Call call not None, const int8_t[::1] top not None, const int64_t[:, ::1] limbs not None,
               Py_ssize_t n_kept_in_all, total, bint by_entry, cnp.ndarray out):
        """What `run` gives for the whole data set, from the bins of all its units; returns the loss.

        total is None, or the sum of all scaled weights; by_entry says whether these have one for each output.
        """
        return finish_parts(&self.shape, &call.mode, top, limbs, n_kept_in_all, total, by_entry, out)

    def layer_gradients(self, cnp.ndarray params, cnp.ndarray x, cnp.ndarray y, cnp.ndarray y_hat, cnp.ndarray out,
                        weights, int n_threads, a, h, grad_a, grad_h):
        """The loss, and every quantity of the recursion, into lists of arrays or None by layer."""
        return layers_of_accepted_call(&self.shape, params, x, y, y_hat, out, weights, n_threads, a, h, grad_a, grad_h)

    def quick_ensemble_value_and_grad(self, Parameters params not None, x, y, out, n_threads, get_num_threads):
        """(losses, gradients) without weights, for arguments that need neither conversion nor an error; else None."""
        return quick_ensemble_call(&self.shape, params, x, y, out, n_threads, get_num_threads)

    def ensemble_value_and_grad(self, Parameters params not None, cnp.ndarray x, cnp.ndarray y, cnp.ndarray losses,
                                cnp.ndarray out, weights, int n_threads):
        """Losses (k,) and gradients (k, n_params) of k networks of this shape.

        x and y have one dimension more if each network has its own; weights is None or a list of one for each.
        """
        accepted_ensemble_call(&self.shape, params, x, y, losses, out, weights, n_threads)

    def run_epochs(self, Parameters params not None, cnp.ndarray x not None, cnp.ndarray y not None, weights,
                   const Py_ssize_t[:, ::1] orders, Py_ssize_t batch_size, const double[::1] rates not None,
                   cnp.ndarray moments not None, double[::1] progress not None, double[:, ::1] losses not None,
                   double[:, ::1] totals not None, int n_threads, *, method, betas=(0.9, 0.999), double epsilon=1e-8,
                   bint corrects_epsilon=True, double weight_decay=0, double momentum=0.9, bint is_nesterov=True,
                   double l2=0, bint divides_l2=False, max_norm=None, cnp.ndarray free=None, loss_cap=None,
                   double[:, ::1] penalties=None, bint stops=True):
        """Steps of "adam" or "sgd" on mini-batches, for some epochs; returns the number of batches done.

        It is smaller than the number of all batches if the loss of the next one is not finite, or its gradient by the
        free parameters, for adam its square in the network's dtype. No step was made for that batch; losses holds its
        loss, which is finite if only the gradient is not. With stops=False such a batch makes a step too. params,
        moments and progress are changed in place. They are those of the last whole step if an exception comes too.

        Parameters
        ----------
        params
            The memory of one network.
        x, y, weights
            As in `run`: accepted, any dtype and layout. A batch copies its rows, by number.
        orders
            (n_epochs, n_used) intp, the rows of each epoch, in which a row may be missing or come twice; or None: all
            rows as they lie.
        batch_size
            Rows of a batch; the last one of an epoch may have fewer. A batch without weight makes no step.
        rates
            (n_epochs,) learning rates.
        moments, progress
            The state: (2, n_params) m and v for adam, (1, n_params) velocity for sgd, in the network's dtype; (3,)
            float64, which counts steps and has the powers of the betas. At the start zeros, and [0, 1, 1].
        losses, totals
            (n_epochs, batches): for the loss of each batch before its step, with the penalty, and the sum of its
            weights.
        method, betas, epsilon, corrects_epsilon, weight_decay, momentum, is_nesterov
            With corrects_epsilon, epsilon is added to the corrected root of v, as in Kingma and Ba's algorithm 1; else
            to the plain one, as scikit-learn does. weight_decay acts on all free parameters.
        l2, divides_l2
            The penalty l2 / 2 ||W||^2, with divides_l2 over the sum of the batch's weights.
        max_norm
            To which a batch's gradient, with that of the penalty, is clipped.
        free
            (n_params,) mask of the parameters that move; only they count for the norm.
        loss_cap
            The most that a row with cross_entropy, or an output with another loss, counts in losses, before weights:
            -log(eps) clips probabilities at eps. It changes no gradient. None is no cap.
        penalties
            (n_epochs, batches) for the penalty of each batch; losses are then without it. Or None.
        stops
            Whether to end before a step by a loss or gradient that is not finite. Else the fit goes on with NaN, as
            scikit-learn's does.
        """
        return accepted_epochs(&self.shape, params, x, y, weights, orders, batch_size, rates, moments, progress, losses,
                               totals, penalties, free, n_threads, stops, loss_cap, {
                                   "method": method, "betas": betas, "epsilon": epsilon,
                                   "corrects_epsilon": corrects_epsilon, "weight_decay": weight_decay,
                                   "momentum": momentum, "is_nesterov": is_nesterov, "l2": l2,
                                   "divides_l2": divides_l2, "max_norm": max_norm,
                               })

    def fit_by_lbfgs(self, LBFGS solver not None, cnp.ndarray params not None, cnp.ndarray x not None,
                     cnp.ndarray y not None, weights, const Py_ssize_t[::1] free, double l2, double tol,
                     Py_ssize_t max_iter, int n_threads):
        """Up to max_iter iterations of a solver on accepted arrays: (the name of an answer, losses by iteration).

        free is None or the numbers of the free parameters (n_free,), intp. params (n_params,) must be writable. In
        the end, and if a signal handler raises, it is the last accepted point.
        """
        return fit_by_lbfgs(&self.shape, solver, params, x, y, weights, free, l2, tol, max_iter, n_threads)

    def fit_by_lm(self, LevenbergMarquardt solver not None, cnp.ndarray params not None, cnp.ndarray x not None,
                  cnp.ndarray y not None, weights, const Py_ssize_t[::1] free, double l2, double tol,
                  Py_ssize_t max_iter, int n_threads):
        """The same by Levenberg-Marquardt; the loss must be squared_error."""
        return fit_by_lm(&self.shape, solver, params, x, y, weights, free, l2, tol, max_iter, n_threads)

    def fit_networks(self, list solvers not None, const Py_ssize_t[::1] networks not None, cnp.ndarray params not None,
                     cnp.ndarray x not None, cnp.ndarray y not None, weights, const Py_ssize_t[::1] free, double l2,
                     double tol, double[:, ::1] losses not None, Py_ssize_t[::1] n_losses not None,
                     int[::1] answers not None, int n_threads):
        """Iterations of some of k networks, each by its own solver: those of `fit_by_lbfgs`, or all of `fit_by_lm`.

        solvers is a list of k, params is (k, n_params); x, y and weights are as in `ensemble_value_and_grad`.
        networks holds the numbers of those that are fitted, in ascending order. Row j of losses (len(networks),
        max_iter), n_losses and answers is for network networks[j]: an answer is an index of ANSWERS.
        """
        fit_networks(&self.shape, solvers, networks, params, x, y, weights, free, l2, tol, losses, n_losses, answers,
                     n_threads)

    def run_epochs_of_networks(self, const Py_ssize_t[::1] networks not None, cnp.ndarray params not None,
                               cnp.ndarray x not None, cnp.ndarray y not None, weights,
                               const Py_ssize_t[:, :, ::1] orders, Py_ssize_t batch_size,
                               const double[:, ::1] rates not None, cnp.ndarray moments not None,
                               double[:, ::1] progress not None, double[:, :, ::1] losses not None,
                               double[:, :, ::1] totals not None, Py_ssize_t[::1] n_done not None, int n_threads, *,
                               cnp.ndarray free=None, **settings):
        """`run_epochs` for some of k networks.

        params is (k, n_params), moments (k, 2 or 1, n_params), progress (k, 3); x, y and weights are as in
        `ensemble_value_and_grad`. networks holds the numbers of those that are trained, in ascending order. Row j of
        orders, rates, losses, totals and n_done, which have one dimension more, is for network networks[j].
        """
        run_epochs_of_networks(&self.shape, networks, params, x, y, weights, orders, batch_size, rates, moments,
                               progress, losses, totals, n_done, free, n_threads, settings)

    def add_penalty(self, cnp.ndarray params not None, double l2, cnp.ndarray gradient not None):
        """l2/2 times the sum of the squared weights, in the order of sums of a fit; l2 W is added to the gradient.

        params (n_params,) have the dtype of the network, gradient (n_params,) is float64.
        """
        return penalty_of(&self.shape, params, l2, gradient)

    def result_shape(self, Call call not None, Py_ssize_t n_samples):
        """The shape of a call's result: of the sums if it has rows too."""
        cdef cnp.npy_intp[MOST_AXES] axes = [0, 0, 0, 0]
        cdef int n = set_axes(&self.shape, call.mode.rows if call.mode.sums == NULL else call.mode.sums, n_samples, 1,
                              axes)
        # No list comprehension: in Cython 3.3.1 one whose append runs out of memory releases its last item twice.
        return (axes[0], axes[1], axes[2], axes[3])[:n]

    # Parameters: what is handed out of them, views made anew at each access ------------------------------------------

    @property
    def n_params(self):
        """The length of the flat vector."""
        return self.shape.n_params

    def vector(self, Parameters params not None):
        """The flat vector of one network, (n_params,)."""
        cdef cnp.npy_intp n = self.shape.n_params
        expect_parameters(&self.shape, params, 1)
        return view_of(&self.shape, params, 0, 1, &n)

    def vectors(self, Parameters params not None):
        """Those of several networks, (k, n_params)."""
        cdef cnp.npy_intp[2] axes = [networks_in(&self.shape, params), self.shape.n_params]
        return view_of(&self.shape, params, 0, 2, axes)

    def weights(self, Parameters params not None):
        """W_1, ..., W_L."""
        cdef cnp.npy_intp[2] axes
        cdef Py_ssize_t i
        cdef list views = [None] * self.shape.n_layers
        expect_parameters(&self.shape, params, 1)
        for i in range(1, self.shape.n_layers + 1):
            axes[0], axes[1] = self.shape.layers[i].n_out, self.shape.layers[i].n_in
            views[i - 1] = view_of(&self.shape, params, self.shape.layers[i].W, 2, axes)
        return tuple(views)

    def biases(self, Parameters params not None):
        """b_1, ..., b_L."""
        cdef cnp.npy_intp n
        cdef Py_ssize_t i
        cdef list views = [None] * self.shape.n_layers
        expect_parameters(&self.shape, params, 1)
        for i in range(1, self.shape.n_layers + 1):
            n = self.shape.layers[i].n_out
            views[i - 1] = view_of(&self.shape, params, self.shape.layers[i].b, 1, &n)
        return tuple(views)
