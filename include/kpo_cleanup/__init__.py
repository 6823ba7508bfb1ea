"""Find and remove pods of the KubernetesPodOperator whose task instance is over.

The modules, in the order in which a run uses them:

``settings``        what the operator (the person) can choose, and how a bad choice is refused
``kube``            one request to the Kubernetes API; ``pods`` lists and deletes with it
``identity``        from pod labels to task instances and back
``task_instances``  what Airflow knows about them: three sources behind one interface
``classify``        the verdict on each pod, a pure function
``reap``            ask again, delete, account for every pod
``report``          what people read in the log
"""
