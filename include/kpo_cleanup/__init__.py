"""Find and remove pods of the KubernetesPodOperator whose task instance is over.

The modules, in the order in which a run uses them:

``steps``           the four tasks; ``xcom`` is what passes between them
``settings``        what the operator (the person) can choose, and how a bad choice is refused
``kube``            one request to the Kubernetes API; ``pods`` lists and deletes with it
``decode``          from a page of JSON to what is needed of it
``pod``             what is kept of a pod
``identity``        from pod labels to task instances and back
``task_instances``  what Airflow knows about them: one interface, filled by ``sql_source`` and ``sdk_source``
``classify``        the verdict on each pod, a pure function; ``evidence`` puts it into words
``reap``            ask again, delete, account for every pod
``report``          what people read in the log
``vocabulary``      the reasons and outcomes, which README, UI, logs and tests share
``collector``       Python's own garbage collector, out of the way
``airflow_compat``  what differs between Airflow 2 and 3
"""
